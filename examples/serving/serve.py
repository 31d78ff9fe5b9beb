"""Serve an exported model: python serve.py MODEL.onnx, beside the predict.py that `kpnet export` wrote."""

import asyncio
import contextlib
import io
import sys

import uvicorn
from PIL import Image
from predict import Model, letterbox, read_image, to_channels
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route

BATCH, WAIT = 32, 0.005  # images in a batch at most, and seconds for which its first one waits for others
BYTES = 10_000_000  # of an upload
Image.MAX_IMAGE_PIXELS = 20_000_000  # Pillow refuses images of more than twice as many


def view(body, info):
    try:
        image = read_image(io.BytesIO(body))
    except Image.DecompressionBombError as error:
        raise HTTPException(400, str(error)) from None
    except Exception:  # what a decoder raises depends on the format and the damage
        raise HTTPException(400, "expected a whole image file, such as a PNG or a JPEG, as the body") from None
    return letterbox(to_channels(image, info["channels"]), info["input_size"])


async def run_batches(run, queue):
    while True:
        waiting = [await queue.get()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT):
                while len(waiting) < BATCH:
                    waiting.append(await queue.get())
        views, results = zip(*waiting, strict=True)
        batch = asyncio.create_task(asyncio.to_thread(run, views))
        await asyncio.wait([batch])
        for n, result in enumerate(results):
            if not result.cancelled():
                result.set_result((batch, n))


def build_app(path):
    model, queue = Model(path), asyncio.Queue()

    async def predict(request):
        seen = await asyncio.to_thread(view, await request.body(), model.info)
        result = asyncio.get_running_loop().create_future()
        await queue.put((seen, result))
        batch, n = await result
        found = {name: values[n].tolist() for name, values in batch.result().items() if name != "covariance"}
        return JSONResponse({"names": model.info["names"], **found})

    @contextlib.asynccontextmanager
    async def lifespan(app):
        task = asyncio.create_task(run_batches(model.run, queue))
        yield
        task.cancel()

    return Starlette(routes=[Route("/predict", predict, methods=["POST"])], lifespan=lifespan, max_body_size=BYTES)


if __name__ == "__main__":
    uvicorn.run(build_app(sys.argv[1]), limit_concurrency=256)
