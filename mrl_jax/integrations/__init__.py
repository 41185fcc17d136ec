"""A model in the tools of others: MTEB, LangChain, LlamaIndex, Qdrant and LanceDB."""
