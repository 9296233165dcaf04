"""A server with OpenAI's interface: pictures in, streamed answers and boxes out.

| module | what it does |
|---|---|
| `schema` | checks the fields of a request; plain Python |
| `asked` | a checked request; plain Python |
| `errors` | errors in OpenAI's shape; plain Python |
| `prompts` | messages to a prompt, pictures to pixels |
| `choose` | the next token of a row |
| `jobs` | what the engine receives, and what it sends back |
| `engine` | the thread that owns the network: rows join and leave its batch between tokens |
| `replies` | answers in OpenAI's shape, whole and streamed; plain Python |
| `metrics` | counters in Prometheus' text; plain Python |
| `service` | limits, and how a request becomes jobs |
| `guard` | around all requests: API keys, host names, the log |
| `page_files` | the page's files |
| `app` | the routes (starlette) |
| `server` | sockets, signals, graceful shutdown (uvicorn) |
| `ranks`, `channel` | the processes of one server under msrun, and their messages |
| `shared_steps` | steps of the network that all these processes run |
| `start` | builds all of this from the command's options |
"""
