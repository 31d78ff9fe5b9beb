"""The server of the labelling page: who may ask, what is served, and what is written."""

from __future__ import annotations

import errno
import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from starlette.testclient import TestClient

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.images import read_image
from kpnet.labelling import server
from kpnet.labelling.label_rows import Point
from kpnet.labelling.labels import read_labels
from kpnet.labelling.session import Session
from kpnet.labelling.source import open_source
from kpnet.labelling.suspicions import SuspectedLabels

TOKEN, PORT = "a-token", 8765
NAMES = ["left_eye", "right_eye", "nose"]
HOST = f"http://127.0.0.1:{PORT}"
POINT = [3.25, 4.5, 2, "person"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a.png, a damaged b.png, a turned c.jpg, and d.png, a link to an image outside."""
    made = tmp_path / "images"
    made.mkdir()
    rng = np.random.default_rng(0)
    cv2.imwrite(str(made / "a.png"), rng.integers(0, 255, (20, 30, 3), np.uint8))
    (made / "b.png").write_bytes(b"\x89PNG")
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(made / "c.jpg", exif=turned)
    cv2.imwrite(str(tmp_path / "secret.png"), np.zeros((8, 8), np.uint8))
    (made / "d.png").symlink_to(tmp_path / "secret.png")
    return made


@pytest.fixture
def session(folder: Path) -> Iterator[Session]:
    made = Session(open_source(folder), skeleton=Skeleton.from_names(NAMES))
    yield made
    made.close()


def client_of(session: Session, **options: Any) -> TestClient:
    return TestClient(server.build_app(session, TOKEN, PORT), base_url=f"{HOST}/{TOKEN}/", **options)


@pytest.fixture
def client(session: Session) -> TestClient:
    return client_of(session, raise_server_exceptions=True)


def put(client: TestClient, index: int, revision: int, points: list[Any] | None = None) -> Any:
    values = [] if points is None else [{"points": points, "box": None}]
    return client.put(f"api/labels/{index}", json={"revision": revision, "instances": values})


def test_the_page_and_its_files(client: TestClient) -> None:
    page = client.get("")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    for name in ("main.js", "state.js", "canvas.js", "server.js", "dialogs.js", "style.css", "icon.svg"):
        found = client.get(name)
        assert found.status_code == 200, name
        assert found.headers["x-content-type-options"] == "nosniff"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-store"
    assert "<script>" not in page.text
    assert "style=" not in page.text
    assert " on" not in page.text.split("<body>")[1].replace(" on ", " ").replace(" one", " ").replace(" once", " ")


@pytest.mark.parametrize(
    ("path", "headers", "why"),
    [
        ("/", {}, "wrong token"),
        ("/api/state", {}, "wrong token"),
        ("/a-toke/api/state", {}, "wrong token"),
        ("/a-token2/api/state", {}, "wrong token"),
        ("/%C3%A9/api/state", {}, "wrong token"),
        (f"/{TOKEN}/api/state", {"Host": "evil.example:8765"}, "this machine alone"),
        (f"/{TOKEN}/api/state", {"Host": "127.0.0.1:8766"}, "this machine alone"),
        (f"/{TOKEN}/api/state", {"Host": "127.0.0.1"}, "this machine alone"),
        (f"/{TOKEN}/api/state", {"Origin": "http://evil.example"}, "other pages"),
        (f"/{TOKEN}/api/state", {"Origin": "null"}, "other pages"),
        (f"/{TOKEN}/api/state", {"Origin": "http://localhost:8765"}, "other pages"),
        (f"/{TOKEN}/api/state", {"Sec-Fetch-Site": "cross-site"}, "other pages"),
        (f"/{TOKEN}/api/state", {"Sec-Fetch-Site": "same-site"}, "other pages"),
    ],
)
def test_requests_from_elsewhere_are_refused(
    client: TestClient, folder: Path, path: str, headers: dict[str, str], why: str
) -> None:
    for method in ("GET", "PUT", "POST", "OPTIONS"):
        found = client.request(method, HOST + path, headers={"Content-Type": "application/json", **headers})
        assert found.status_code == 403
        assert why in found.text
        assert "access-control-allow-origin" not in found.headers
        assert "a.png" not in found.text


def test_a_form_of_another_page_writes_nothing(client: TestClient, folder: Path) -> None:
    found = client.put("api/labels/0", content="{}", headers={"Content-Type": "text/plain"})
    assert found.status_code == 403
    assert not (folder / "labels.csv").exists()


def test_the_page_itself_may_ask(client: TestClient) -> None:
    for headers in ({"Origin": HOST, "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
        assert client.get("api/state", headers=headers).status_code == 200
    named = client.get(f"http://localhost:{PORT}/{TOKEN}/api/state", headers={"Origin": f"http://localhost:{PORT}"})
    assert named.status_code == 200


@pytest.mark.parametrize(
    "path", ["api/image/../../secret.png", "..%2fsecret.png", "%2e%2e/secret.png", "labels.csv", "a.png", "/etc/passwd",
             "api/image/-1", "api/image/1e3", "server.py", "../server.py", "..%5cserver.py", ""],
)  # fmt: skip
def test_no_path_leads_to_another_file(client: TestClient, path: str) -> None:
    found = client.get(f"{HOST}/{TOKEN}/x/../{path}" if path else f"{HOST}/{TOKEN}/x/")
    assert found.status_code in (403, 404)


def test_a_link_out_of_the_folder_is_not_served(client: TestClient) -> None:
    found = client.get("api/image/3")
    assert found.status_code == 422
    assert "leads out of" in found.json()["error"]


def test_images_are_the_pixels_that_kpnet_reads(client: TestClient, folder: Path) -> None:
    for index, name in ((0, "a.png"), (2, "c.jpg")):
        found = client.get(f"api/image/{index}")
        assert found.headers["content-type"] == "image/png"
        pixels = np.asarray(Image.open(io.BytesIO(found.content)))
        np.testing.assert_array_equal(pixels, read_image(folder / name))
    assert read_image(folder / "c.jpg").shape == (30, 20, 3)


def test_an_image_that_cannot_be_read_is_named_and_the_others_go_on(client: TestClient) -> None:
    found = client.get("api/image/1")
    assert found.status_code == 422
    assert "b.png: the image is cut short" in found.json()["error"]
    assert client.get("api/image/2").status_code == 200
    assert client.get("api/image/4").json()["error"] == "image 4: there are 4 images"


def test_labels_are_written_and_a_stale_page_is_refused(client: TestClient, folder: Path) -> None:
    state = client.get("api/state").json()
    assert (state["images"], state["order"], state["revision"]) == (
        ["a.png", "b.png", "c.jpg", "d.png"],
        [*range(4)],
        0,
    )
    assert state["skeleton"]["pairs"] == [["left_eye", "right_eye"]]
    assert put(client, 0, 0, [POINT, None, [None, None, 0, "person"]]).json() == {"revision": 1}
    assert client.get("api/labels/0").json()["instances"] == [
        {"points": [POINT, None, [None, None, 0, "person"]], "box": None}
    ]
    before = (folder / "labels.csv").read_bytes()
    stale = put(client, 0, 0)
    assert (stale.status_code, stale.json()["kind"]) == (409, "stale")
    assert (folder / "labels.csv").read_bytes() == before
    assert client.get("api/status").json()["revision"] == 1
    assert client.get("api/state").json()["counts"] == [2, 0, 0, 0]


def test_another_programs_change_is_offered(client: TestClient, folder: Path) -> None:
    put(client, 0, 0, [POINT] * 3)
    path = folder / "labels.csv"
    theirs = path.read_text().replace("3.25", "7")
    path.write_text(theirs)
    refused = put(client, 2, 1, [POINT] * 3)
    assert (refused.status_code, refused.json()["kind"]) == (409, "changed")
    assert path.read_text() == theirs
    status = client.post("api/reload", json={}).json()
    assert client.get("api/labels/0").json()["instances"][0]["points"][0][0] == 7
    path.write_text(theirs.replace("7", "8"))
    assert put(client, 2, status["revision"], [POINT] * 3).status_code == 409
    status = client.post("api/beside", json={}).json()
    assert status["file"].endswith("labels_2.csv")
    assert put(client, 2, status["revision"], [POINT] * 3).status_code == 200
    assert path.read_text() == theirs.replace("7", "8")


def test_suspicions_and_the_command_that_compares(
    client: TestClient, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get("api/suspicions/0").json() == {"suspicions": []}
    assert client.get("api/suspicions/4").status_code == 422
    found = SuspectedLabels(0, "off", "move nose by 9.0 px", ((2, Point(1.0, 2.0, 2, "person"), None),))
    monkeypatch.setattr(session, "_suspected", {0: [found]})
    expected = {
        "instance": 0,
        "kind": "off",
        "note": "move nose by 9.0 px",
        "changes": [[2, [1, 2, 2, "person"], None]],
    }
    assert client.get("api/suspicions/0").json() == {"suspicions": [expected]}
    assert client.get("api/state").json()["queue"] == "order"
    assert client.get("api/status").json()["compare"] is None


def test_a_full_disk_is_told_and_nothing_is_lost(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    put(client, 0, 0, [POINT] * 3)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "labels.csv")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        refused = put(client, 0, 1)
    assert refused.status_code == 507
    assert refused.json() == {
        "error": f"{client.get('api/status').json()['file']}: No space left on device",
        "kind": "disk",
    }
    assert len(client.get("api/labels/0").json()["instances"]) == 1
    assert put(client, 0, 1).status_code == 200


BODIES = (
    *("", "[]", "nonsense", "[" * 100_000, '{"instances": []}', '{"revision": 0}', '{"revision": 0, "instances": 3}'),
    *('{"revision": 0, "instances": [{"points": [null]}]}', '{"revision": 0, "instances": [NaN]}'),
)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body[:30])
def test_a_body_that_is_none_is_refused(client: TestClient, folder: Path, body: str) -> None:
    found = client.put("api/labels/0", content=body, headers={"Content-Type": "application/json"})
    assert found.status_code == 422
    assert "expected" in found.json()["error"]
    assert not (folder / "labels.csv").exists()


def test_a_long_body_is_refused(client: TestClient) -> None:
    found = client.put(
        "api/labels/0", content=b" " * (server.MAX_BODY + 1), headers={"Content-Type": "application/json"}
    )
    assert found.status_code == 422


def test_a_skeleton_is_made_and_written_as_yaml(folder: Path) -> None:
    session = Session(open_source(folder))
    client = client_of(session)
    assert client.get("api/state").json()["skeleton"] is None
    assert "make one first" in put(client, 0, 0, [POINT]).json()["error"]
    names = ["eye_left", "eye_right", "<script>alert(1)</script>"]
    assert client.put("api/pairs", json={"names": [*names, "left_ear"]}).json() == {
        "pairs": [["eye_left", "eye_right"]],
        "unpaired": ["left_ear"],
    }
    assert "twice" in client.put("api/skeleton", json={"names": ["a", "a"]}).json()["error"]
    assert client.put("api/skeleton", json={"names": ["a,b"]}).status_code == 422
    assert not (folder / "labels.skeleton.yaml").exists()
    made = {"names": names, "pairs": [names[:2]], "edges": [[names[0], names[2]]], "nme": names[:2]}
    state = client.put("api/skeleton", json=made).json()
    assert state["skeleton"] == made
    assert put(client, 0, state["revision"], [POINT] * 3).status_code == 200
    session.close()
    assert Skeleton.load(folder / "labels.skeleton.yaml").to_dict() == {**made, "name": "labels.skeleton"}
    again = Session(open_source(folder))
    assert again.labels.skeleton is not None
    assert again.labels.skeleton.pairs == (("eye_left", "eye_right"),)
    again.close()
    assert read_labels(folder / "labels.csv")[0].names == tuple(names)


def test_a_users_skeleton_file_is_not_replaced(session: Session, folder: Path) -> None:
    (folder / "labels.skeleton.yaml").write_text("names: [mine]\n")
    found = client_of(session).put("api/skeleton", json={"names": NAMES})
    assert found.status_code == 422
    assert (folder / "labels.skeleton.yaml").read_text() == "names: [mine]\n"


def test_a_port_in_use_is_left_for_the_next() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with server.bind(port) as found:
            assert found.getsockname()[0] == "127.0.0.1"
            assert port < found.getsockname()[1] <= port + server.PORTS_TRIED


def test_no_port_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PORTS_TRIED", 0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(KpnetError, match=r"--port: the ports .* are in use"):
            server.bind(taken.getsockname()[1])


def test_a_second_process_on_the_file_is_refused(session: Session, folder: Path) -> None:
    with pytest.raises(KpnetError, match=r"labels\.csv: another kpnet process .*works in it"):
        Session(open_source(folder))


def test_the_state_is_json_without_nan(client: TestClient) -> None:
    put(client, 0, 0, [POINT, [5.0, 6.0, 1, "proposed"], None])
    state = json.loads(client.get("api/state").text, parse_constant=lambda name: pytest.fail(name))
    assert state["shape"][2] is None
    np.testing.assert_allclose(
        state["shape"][:2], [[0, 1.5 / 1.75 / 2 * 0 + 0.5 - 0.75 / 1.75], [1, 0.5 + 0.75 / 1.75]]
    )
