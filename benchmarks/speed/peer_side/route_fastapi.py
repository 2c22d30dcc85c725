"""A plain FastAPI route: no batching, one thread that computes."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import behind
import uvicorn
from fastapi import FastAPI, Request


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model."""
    app.state.score, app.state.thread = behind.load(), ThreadPoolExecutor(1)
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/score")
async def score(request: Request) -> dict[str, float]:
    """Score the image in the body."""
    body = await request.body()
    state = request.app.state

    def work() -> float:
        return state.score([behind.opened(body)])[0]

    return {"log_likelihood": await asyncio.get_running_loop().run_in_executor(state.thread, work)}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=behind.PORT, access_log=False, log_level="warning")
