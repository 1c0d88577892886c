"""AgentOS: the HYVVE platform's agent service, on FastAPI and uvicorn."""

__version__ = "0.1.0"
