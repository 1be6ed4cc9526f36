"""An engine in this process, over a repository on disk."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from atril_inference.engine import Engine
from atril_inference.service import loading_engine
from atril_inference.settings import InferenceSettings


@asynccontextmanager
async def running_engine(root: Path, **settings: Any) -> AsyncIterator[Engine]:
    """An engine that has loaded `root`, with one thread a session; closed afterwards."""
    chosen = InferenceSettings(model_repository=root, intra_op_threads=1, **settings)
    async with loading_engine(chosen) as (engine, loading):
        await loading
        yield engine
