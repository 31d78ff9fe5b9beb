from setuptools import find_packages, setup

# The metadata is in pyproject.toml. The recipes live once, in configs/, and ship as kpnet.configs.
setup(
    packages=[*find_packages(include=["kpnet", "kpnet.*"]), "kpnet.configs", "kpnet.configs.sweeps"],
    package_dir={"kpnet.configs": "configs", "kpnet.configs.sweeps": "configs/sweeps"},
)
