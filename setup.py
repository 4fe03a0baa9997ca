"""What pyproject.toml cannot say: the kernel is built where there is a C compiler and Python's headers, else done without."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "bus.engine._kernel",
            ["bus/engine/kernel/kernel.c"],
            depends=["bus/engine/kernel/plan.h", "bus/engine/kernel/walk.h", "bus/engine/kernel/blake2b.h"],
            extra_compile_args=["-O3", "-Wall", "-Wextra"],
            optional=True,
        )
    ]
)
