/* option_table - the rows of option.h's table; no include guard, it is read several times.
 *
 * OPTION(id, name, type, commands, group, unit, default, min, max, words, help)
 * Defaults come from behaviour.md 3, 5, 6 and protocol.md 3; those of vLLM from facts/engines.md
 * 1.3. */
#define ENGINE_COMMANDS                                                                            \
    (OPTION_RUN | OPTION_CHAT | OPTION_SERVE | OPTION_PLAN | OPTION_BENCH | OPTION_CHECK |         \
     OPTION_WORKER)
#define SERVER_COMMANDS (OPTION_SERVE | OPTION_FRONTEND)
#define GRAPH_COMMANDS (OPTION_SERVE | OPTION_PLAN | OPTION_CHECK)
#define PROCESS_COMMANDS (OPTION_SERVE | OPTION_FRONTEND | OPTION_WORKER)
#define CLASSIC_COMMANDS (GRAPH_COMMANDS | OPTION_FRONTEND | OPTION_WORKER)
#define SAMPLING_COMMANDS (OPTION_RUN | OPTION_CHAT)
#define ALL_COMMANDS (ENGINE_COMMANDS | OPTION_FRONTEND | OPTION_TOKENIZE | OPTION_RENDER)

OPTION(MODEL, "model", OPTION_TEXT, ALL_COMMANDS, "model", "", NULL, 0, 0, NULL,
       "a Hugging Face directory, a GGUF file, or org/name in the Hugging Face cache (-m)")
OPTION(SERVED_MODEL_NAME, "served-model-name", OPTION_LIST,
       GRAPH_COMMANDS | OPTION_FRONTEND | OPTION_WORKER, "model", "", NULL, 0, 0, NULL,
       "name in the API; repeatable (default: org/name or the file's stem)")
OPTION(LOAD_FORMAT, "load-format", OPTION_WORD, ENGINE_COMMANDS | OPTION_FRONTEND, "model", "",
       "auto", 0, 0, "auto|dummy", "dummy: random weights of the model's shape")
OPTION(DUMMY_SEED, "dummy-seed", OPTION_COUNT, ENGINE_COMMANDS | OPTION_FRONTEND, "model", "", "0",
       0, 1e18, NULL, "seed of dummy weights")
OPTION(DUMMY_TYPE, "dummy-type", OPTION_WORD, ENGINE_COMMANDS | OPTION_FRONTEND, "model", "",
       "bf16", 0, 0, "f32|f16|bf16|q8_0|q4_0|q4_1|q5_0|q5_1|q4_k|q5_k|q6_k",
       "storage of dummy matrices")
OPTION(GENERATION_CONFIG, "generation-config", OPTION_WORD,
       OPTION_RUN | OPTION_CHAT | PROCESS_COMMANDS, "model", "", "auto", 0, 0, "auto|none",
       "take sampling defaults from generation_config.json")

OPTION(HOST, "host", OPTION_TEXT, SERVER_COMMANDS, "server", "", "127.0.0.1", 0, 0, NULL,
       "address to listen on")
OPTION(PORT, "port", OPTION_COUNT, SERVER_COMMANDS, "server", "", "8000", 0, 65535, NULL,
       "port to listen on (-p); 0 picks a free one")
OPTION(API_KEY, "api-key", OPTION_LIST, SERVER_COMMANDS | OPTION_TOP, "server", "", NULL, 0, 0,
       NULL, "bearer key that clients must send; repeatable")
OPTION(API_KEY_FILE, "api-key-file", OPTION_TEXT, SERVER_COMMANDS, "server", "", NULL, 0, 0, NULL,
       "file with one key a line")
OPTION(GUARD_METRICS, "guard-metrics", OPTION_BOOL, SERVER_COMMANDS, "server", "", "false", 0, 0,
       NULL, "ask for the key on /metrics too")
OPTION(ALLOWED_ORIGINS, "allowed-origins", OPTION_TEXT, SERVER_COMMANDS, "server", "", NULL, 0, 0,
       NULL, "origins of web pages that may call, comma-separated, or '*' (default: localhost)")
OPTION(MAX_QUEUE, "max-queue", OPTION_COUNT, SERVER_COMMANDS, "server", "requests", "4096", 1, 1e6,
       NULL, "requests that may wait; beyond it 429")
OPTION(MAX_QUEUE_BYTES, "max-queue-bytes", OPTION_BYTES, SERVER_COMMANDS, "server", "", "256MiB",
       65536, 1e12, NULL, "bytes of prompts that may wait")
OPTION(QUEUE_TIMEOUT, "queue-timeout", OPTION_DURATION, SERVER_COMMANDS, "server", "s", "300",
       0.001, 1e6, NULL, "longest wait for admission, then 503")
OPTION(MAX_CONNECTIONS, "max-connections", OPTION_COUNT, SERVER_COMMANDS, "server", "", "4096", 1,
       1e6, NULL, "open connections; beyond it 503")
OPTION(MAX_BODY, "max-body", OPTION_BYTES, SERVER_COMMANDS, "server", "", "64MiB", 1024, 1e10, NULL,
       "largest request body; beyond it 413")
OPTION(MAX_HEADER, "max-header", OPTION_BYTES, SERVER_COMMANDS, "server", "", "64KiB", 1024, 1e7,
       NULL, "largest request line and headers; beyond it 431")
OPTION(HEADER_TIMEOUT, "header-timeout", OPTION_DURATION, SERVER_COMMANDS, "server", "s", "10",
       0.001, 1e6, NULL, "time for a request's headers, then 408")
OPTION(BODY_TIMEOUT, "body-timeout", OPTION_DURATION, SERVER_COMMANDS, "server", "s", "30", 0.001,
       1e6, NULL, "silence within a request's body, then 408")
OPTION(KEEP_ALIVE_TIMEOUT, "keep-alive-timeout", OPTION_DURATION, SERVER_COMMANDS, "server", "s",
       "75", 0.001, 1e6, NULL, "an idle connection is closed after this")
OPTION(WRITE_TIMEOUT, "write-timeout", OPTION_DURATION, SERVER_COMMANDS, "server", "s", "60", 0.001,
       1e6, NULL, "a reader that takes nothing for this long is cut off")
OPTION(SSE_KEEP_ALIVE, "sse-keep-alive", OPTION_DURATION, SERVER_COMMANDS, "server", "s", "15",
       0.001, 1e6, NULL, "a silent stream gets a comment after this")
OPTION(DRAIN_DELAY, "drain-delay", OPTION_DURATION, SERVER_COMMANDS, "server", "s", "0", 0, 1e6,
       NULL, "after SIGTERM: requests are still taken for this long")
OPTION(DRAIN_TIMEOUT, "drain-timeout", OPTION_DURATION, PROCESS_COMMANDS, "server", "s", "25", 0,
       1e6, NULL, "after that: running requests may take this long to finish")
OPTION(SYNC_TIMEOUT, "sync-timeout", OPTION_DURATION, PROCESS_COMMANDS, "server", "s", "3", 0.01,
       1e6, NULL, "silence between frontend and worker that ends an attempt")
OPTION(STEP_TIMEOUT, "step-timeout", OPTION_DURATION, PROCESS_COMMANDS, "server", "s", "5", 0.01,
       1e6, NULL, "a step older than this turns /health to 503")

OPTION(ROUTER_MODE, "router-mode", OPTION_WORD, SERVER_COMMANDS, "routing", "", "least-loaded", 0,
       0, "random|round-robin|kv|least-loaded|kv-load",
       "which worker gets a request; kv: where its prefix lies")
OPTION(KV_OVERLAP_SCORE_WEIGHT, "kv-overlap-score-weight", OPTION_NUMBER, SERVER_COMMANDS,
       "routing", "", "1", 0, 1e6, NULL,
       "kv: weight of prompt blocks to be computed against blocks in use")
OPTION(ROUTER_TEMPERATURE, "router-temperature", OPTION_NUMBER, SERVER_COMMANDS, "routing", "", "0",
       0, 1e6, NULL, "0: the lowest cost; above: softer")
OPTION(KV_EVENTS, "kv-events", OPTION_BOOL, SERVER_COMMANDS, "routing", "", "true", 0, 0, NULL,
       "kv: hear what workers store; else guess it from what they were sent")
OPTION(ROUTER_TTL, "router-ttl-secs", OPTION_DURATION, SERVER_COMMANDS, "routing", "s", "120", 0,
       1e6, NULL, "kv without events: life of a guess")
OPTION(ROUTER_PREDICTED_TTL, "router-predicted-ttl-secs", OPTION_DURATION, SERVER_COMMANDS,
       "routing", "s", "5", 0, 1e6, NULL, "kv with events: life of a guess until its event comes")
OPTION(ROUTER_MAX_TREE_SIZE, "router-max-tree-size", OPTION_COUNT, SERVER_COMMANDS, "routing",
       "blocks", "1048576", 0, 4e9, NULL, "kv: guesses kept; the oldest go first")

OPTION(ENGINE, "engine", OPTION_WORD, ENGINE_COMMANDS | OPTION_FRONTEND, "engine", "", "cpu", 0, 0,
       "cpu|sim", "what computes; sim computes nothing and needs no weights")
OPTION(TENSOR_PARALLEL_SIZE, "tensor-parallel-size", OPTION_COUNT, ENGINE_COMMANDS, "engine", "",
       "1", 1, 64, NULL, "ranks of a worker; auto: chosen by the plan")
OPTION(MAX_MODEL_LEN, "max-model-len", OPTION_COUNT, ENGINE_COMMANDS | OPTION_FRONTEND, "engine",
       "tokens", NULL, 1, 1e8, NULL,
       "longest sequence; auto: the longest that fits (default: the model's, or what fits)")
OPTION(MAX_NUM_SEQS, "max-num-seqs", OPTION_COUNT, ENGINE_COMMANDS, "engine", "sequences", "64", 1,
       8192, NULL, "sequences computed at once")
OPTION(MAX_NUM_BATCHED_TOKENS, "max-num-batched-tokens", OPTION_COUNT, ENGINE_COMMANDS, "engine",
       "tokens", "2048", 1, 1048576, NULL, "tokens of one step")
OPTION(BLOCK_SIZE, "block-size", OPTION_COUNT, ENGINE_COMMANDS | OPTION_FRONTEND, "engine",
       "tokens", "16", 8, 128, NULL, "tokens of a KV block: 8, 16, 32, 64 or 128")
OPTION(GPU_MEMORY_UTILIZATION, "gpu-memory-utilization", OPTION_NUMBER, ENGINE_COMMANDS, "engine",
       "", NULL, 0.01, 1, NULL,
       "share of the device's memory that may be used; auto: what is free, less a reserve")
OPTION(KV_CACHE_MEMORY_BYTES, "kv-cache-memory-bytes", OPTION_BYTES, ENGINE_COMMANDS, "engine", "",
       NULL, 0, 1e15, NULL, "bytes of KV cache (default: by the rules of the plan)")
OPTION(KV_CACHE_DTYPE, "kv-cache-dtype", OPTION_WORD, ENGINE_COMMANDS, "engine", "", "auto", 0, 0,
       "auto|f32|f16|bf16|int8|fp8", "storage of keys and values")
OPTION(ENABLE_PREFIX_CACHING, "enable-prefix-caching", OPTION_BOOL, ENGINE_COMMANDS, "engine", "",
       "true", 0, 0, NULL, "reuse the KV of equal prefixes")
OPTION(ENABLE_CHUNKED_PREFILL, "enable-chunked-prefill", OPTION_BOOL, ENGINE_COMMANDS, "engine", "",
       "true", 0, 0, NULL, "compute long prompts in pieces between other requests' tokens")
OPTION(PREFILL_CHUNK, "prefill-chunk", OPTION_COUNT, ENGINE_COMMANDS, "engine", "tokens", "512", 1,
       1048576, NULL, "prompt tokens of one sequence in one step")
OPTION(ROW_TILE, "row-tile", OPTION_COUNT, ENGINE_COMMANDS, "engine", "rows", "4096", 1, 1048576,
       NULL, "rows of the MLP computed at once; results do not depend on it")
OPTION(NUMERICS, "numerics", OPTION_WORD, ENGINE_COMMANDS, "engine", "", "auto", 0, 0,
       "auto|f32a|bf16p|q8a32", "numerics class (auto: by the weights' format)")
OPTION(THREADS, "threads", OPTION_COUNT, ENGINE_COMMANDS, "engine", "", NULL, 1, 256, NULL,
       "compute threads (-t; default: physical cores allowed here)")
OPTION(CPU, "cpu", OPTION_WORD, ENGINE_COMMANDS, "engine", "", "auto", 0, 0,
       "auto|scalar|avx2|avx512", "force a body of the CPU kernels")
OPTION(PREFAULT, "prefault", OPTION_BOOL, ENGINE_COMMANDS, "engine", "", "false", 0, 0, NULL,
       "touch all planned memory before ready")
OPTION(LOAD_CONCURRENCY, "load-concurrency", OPTION_COUNT, GRAPH_COMMANDS | OPTION_WORKER, "engine",
       "workers", "0", 0, 4096, NULL,
       "workers of a node that load at once (0: one from a spinning disk, else all)")
OPTION(SIM_STEP, "sim-step", OPTION_DURATION, ENGINE_COMMANDS, "engine", "ms", "0", 0, 1e6, NULL,
       "sim: time of a step")
OPTION(SIM_TOKEN, "sim-token", OPTION_DURATION, ENGINE_COMMANDS, "engine", "ms", "0", 0, 1e6, NULL,
       "sim: time of each token row in a step")
OPTION(SIM_GRID, "sim-grid", OPTION_BOOL, ENGINE_COMMANDS, "engine", "", "false", 0, 0, NULL,
       "sim: steps end at whole multiples of sim-step (bench serve --step-grid)")

OPTION(PIPELINE_PARALLEL_SIZE, "pipeline-parallel-size", OPTION_COUNT,
       GRAPH_COMMANDS | OPTION_WORKER, "engine", "", "1", 1, 64, NULL,
       "planned and checked only: layers are not spread over devices")
OPTION(DTYPE, "dtype", OPTION_WORD, GRAPH_COMMANDS | OPTION_WORKER, "engine", "", "auto", 0, 0,
       "auto|float16|bfloat16|float32",
       "compute type on GPUs; on the CPU --numerics and the weights' format decide")
OPTION(QUANTIZATION, "quantization", OPTION_TEXT, GRAPH_COMMANDS | OPTION_WORKER, "engine", "",
       NULL, 0, 0, NULL,
       "the checkpoint's weight format, where its files do not tell: fp8, modelopt, awq, gptq ...")

OPTION(FILE, "file", OPTION_TEXT, CLASSIC_COMMANDS, "graph", "", NULL, 0, 0, NULL,
       "the graph's YAML file; '-' reads stdin (-f)")
OPTION(DEVICES, "devices", OPTION_TEXT, GRAPH_COMMANDS | OPTION_WORKER, "graph", "", NULL, 0, 0,
       NULL,
       "devices to use or to plan for: 8xcpu:1GiB, 16xA100-40GB, '2x(8xH100-80GB)', "
       "4xcuda0:39.39GiB (default: this machine)")
OPTION(SHAPE, "shape", OPTION_LIST, GRAPH_COMMANDS, "graph", "", NULL, 0, 0, NULL,
       "PATH=NAME or PATH=config.json: what a model path is that is not on this machine; "
       "repeatable")
OPTION(ROUTER, "router", OPTION_WORD, CLASSIC_COMMANDS, "graph", "", NULL, 0, 0,
       "random|round-robin|least-loaded|kv",
       "who gets a request (default: kv with a router, else least-loaded)")
OPTION(MIN_WORKERS, "min-workers", OPTION_COUNT, CLASSIC_COMMANDS, "graph", "workers", "1", 1,
       65536, NULL, "ready with that many")
OPTION(REMOTE_PREFILL, "remote-prefill", OPTION_BOOL, GRAPH_COMMANDS | OPTION_WORKER, "graph", "",
       "false", 0, 0, NULL, "prompts may be computed by prefill workers")
OPTION(CONDITIONAL_DISAGG, "conditional-disagg", OPTION_BOOL, GRAPH_COMMANDS | OPTION_WORKER,
       "graph", "", "false", 0, 0, NULL,
       "short prompts and full queues stay local; off: every prompt goes away")
OPTION(MAX_LOCAL_PREFILL_LENGTH, "max-local-prefill-length", OPTION_COUNT,
       GRAPH_COMMANDS | OPTION_WORKER, "graph", "tokens", "1000", 0, 1e8, NULL,
       "longer rests of prompts are computed remotely")
OPTION(MAX_PREFILL_QUEUE_SIZE, "max-prefill-queue-size", OPTION_COUNT,
       GRAPH_COMMANDS | OPTION_WORKER, "graph", "requests", "3", 0, 1e6, NULL,
       "prompts waiting a prefill worker, from which on they stay local")
OPTION(REMOTE_PREFILL_TIMEOUT, "remote-prefill-timeout", OPTION_DURATION,
       GRAPH_COMMANDS | OPTION_WORKER, "graph", "s", "30", 0.001, 1e6, NULL,
       "a remote prefill that takes longer is computed locally")
OPTION(HANDOFF_CHUNK_TOKENS, "handoff-chunk-tokens", OPTION_COUNT, GRAPH_COMMANDS | OPTION_WORKER,
       "graph", "tokens", "256", 1, 1048576, NULL,
       "a prefill worker computes that many, and sends them while it computes the next")
OPTION(TRANSFER_TIMEOUT, "transfer-timeout", OPTION_DURATION, GRAPH_COMMANDS | OPTION_WORKER,
       "graph", "s", "2", 0.01, 1e6, NULL, "a transfer that stands still for so long is given up")
OPTION(QUARANTINE_TIMEOUT, "quarantine-timeout", OPTION_DURATION, GRAPH_COMMANDS | OPTION_WORKER,
       "graph", "s", "5", 0.1, 1e6, NULL,
       "blocks of a transfer given up that are not free by then are told of")
OPTION(TRANSFER_LISTEN, "transfer-listen", OPTION_TEXT, GRAPH_COMMANDS | OPTION_WORKER, "graph", "",
       NULL, 0, 0, NULL,
       "address or interface of transfers (default: the one that reaches the bus)")
OPTION(TRANSFER_PORTS, "transfer-ports", OPTION_TEXT, GRAPH_COMMANDS | OPTION_WORKER, "graph", "",
       NULL, 0, 0, NULL, "FIRST-LAST of its TCP ports (default: any)")
OPTION(TRANSFER_TRANSPORTS, "transfer-transports", OPTION_TEXT, GRAPH_COMMANDS | OPTION_WORKER,
       "graph", "", NULL, 0, 0, NULL,
       "what may carry blocks: shm (memory of one node), tcp (default: shm,tcp)")
OPTION(VERIFY_KV, "verify-kv", OPTION_BOOL, GRAPH_COMMANDS | OPTION_WORKER, "graph", "", "false", 0,
       0, NULL, "a checksum over the bytes of every transfer")
OPTION(ENDPOINT, "endpoint", OPTION_TEXT, CLASSIC_COMMANDS, "graph", "", NULL, 0, 0, NULL,
       "namespace.Component.endpoint of the classic system: the namespace is used")
OPTION(ENDPOINT_COMPLETIONS, "endpoint-completions", OPTION_TEXT, CLASSIC_COMMANDS, "graph", "",
       NULL, 0, 0, NULL, "as endpoint, for /v1/completions")
OPTION(KV_TRANSFER_CONFIG, "kv-transfer-config", OPTION_TEXT, GRAPH_COMMANDS | OPTION_WORKER,
       "graph", "", NULL, 0, 0, NULL,
       "JSON with kv_connector: every known connector is mapped to ours")
OPTION(FORCE, "force", OPTION_BOOL, OPTION_SERVE | OPTION_WORKER, "graph", "", "false", 0, 0, NULL,
       "start although check found errors or the plan does not fit")
OPTION(STRICT, "strict", OPTION_BOOL, OPTION_CHECK, "check", "", "false", 0, 0, NULL,
       "warnings count as errors")
OPTION(FIX, "fix", OPTION_BOOL, OPTION_CHECK, "check", "", "false", 0, 0, NULL,
       "mend the file: shows the difference, writes only with -o or --in-place")
OPTION(OUTPUT, "output", OPTION_TEXT, OPTION_CHECK, "check", "", NULL, 0, 0, NULL,
       "with --fix: write the mended file here (-o)")
OPTION(IN_PLACE, "in-place", OPTION_BOOL, OPTION_CHECK, "check", "", "false", 0, 0, NULL,
       "with --fix: overwrite the file")

OPTION(MAX_TOKENS, "max-tokens", OPTION_COUNT, SAMPLING_COMMANDS, "sampling", "tokens", NULL, 1,
       1e8, NULL, "tokens to generate at most (default: to the end)")
OPTION(TEMPERATURE, "temperature", OPTION_NUMBER, SAMPLING_COMMANDS, "sampling", "", NULL, 0, 2,
       NULL, "0: greedy (default: the model's, else 0.7 in chat, 0 in run)")
OPTION(TOP_P, "top-p", OPTION_NUMBER, SAMPLING_COMMANDS, "sampling", "", NULL, 1e-9, 1, NULL,
       "probability kept")
OPTION(TOP_K, "top-k", OPTION_NUMBER, SAMPLING_COMMANDS, "sampling", "", NULL, -1, 1e9, NULL,
       "best tokens kept; 0 or -1: all")
OPTION(MIN_P, "min-p", OPTION_NUMBER, SAMPLING_COMMANDS, "sampling", "", NULL, 0, 1, NULL,
       "least probability, as a share of the best")
OPTION(SEED, "seed", OPTION_TEXT, SAMPLING_COMMANDS, "sampling", "", NULL, 0, 0, NULL,
       "a whole number: the same answer each time (default: drawn)")
OPTION(PRESENCE_PENALTY, "presence-penalty", OPTION_NUMBER, SAMPLING_COMMANDS, "sampling", "", "0",
       -2, 2, NULL, "")
OPTION(FREQUENCY_PENALTY, "frequency-penalty", OPTION_NUMBER, SAMPLING_COMMANDS, "sampling", "",
       "0", -2, 2, NULL, "")
OPTION(REPETITION_PENALTY, "repetition-penalty", OPTION_NUMBER, SAMPLING_COMMANDS, "sampling", "",
       NULL, 0.01, 100, NULL, "")
OPTION(MIN_TOKENS, "min-tokens", OPTION_COUNT, SAMPLING_COMMANDS, "sampling", "tokens", "0", 0, 1e8,
       NULL, "no stop before that many")
OPTION(IGNORE_EOS, "ignore-eos", OPTION_BOOL, SAMPLING_COMMANDS, "sampling", "", "false", 0, 0,
       NULL, "go on past the model's end")
OPTION(STOP, "stop", OPTION_LIST, SAMPLING_COMMANDS, "sampling", "", NULL, 0, 0, NULL,
       "text that ends the answer; repeatable")
OPTION(STOP_TOKEN_IDS, "stop-token-ids", OPTION_TEXT, OPTION_RUN, "sampling", "", NULL, 0, 0, NULL,
       "token ids that end the answer, comma-separated")
OPTION(LOGIT_BIAS, "logit-bias", OPTION_LIST, OPTION_RUN, "sampling", "", NULL, 0, 0, NULL,
       "ID=BIAS: added to that token's logit, -100 to 100; repeatable")
OPTION(ALLOWED_TOKEN_IDS, "allowed-token-ids", OPTION_TEXT, OPTION_RUN, "sampling", "", NULL, 0, 0,
       NULL, "only these token ids can be drawn, comma-separated")
OPTION(BAD_WORDS, "bad-words", OPTION_LIST, OPTION_RUN, "sampling", "", NULL, 0, 0, NULL,
       "a word that is never drawn; repeatable")
OPTION(N, "n", OPTION_COUNT, OPTION_RUN, "sampling", "answers", "1", 1, 128, NULL,
       "answers to make, one after the other")
OPTION(LOGPROBS, "logprobs", OPTION_COUNT, OPTION_RUN, "sampling", "", NULL, 0, 20, NULL,
       "with --json: logprobs of each token and that many best")

OPTION(SYSTEM, "system", OPTION_TEXT, SAMPLING_COMMANDS, "prompt", "", NULL, 0, 0, NULL,
       "system message")
OPTION(RAW, "raw", OPTION_BOOL, OPTION_RUN, "prompt", "", "false", 0, 0, NULL,
       "the prompt as it is, without the chat template")
OPTION(IDS, "ids", OPTION_TEXT, OPTION_RUN | OPTION_TOKENIZE, "prompt", "", NULL, 0, 0, NULL,
       "token ids, comma-separated, instead of text (tokenize: ids to text)")
OPTION(URL, "url", OPTION_TEXT, OPTION_CHAT | OPTION_TOP, "prompt", "", NULL, 0, 0, NULL,
       "talk to this server (default http://127.0.0.1:8000 without -m)")
OPTION(ONCE, "once", OPTION_TEXT, OPTION_CHAT, "prompt", "", NULL, 0, 0, NULL,
       "ask this, print the answer, end")
OPTION(TEMPLATE, "template", OPTION_TEXT, OPTION_RENDER, "prompt", "", NULL, 0, 0, NULL,
       "template file instead of the model's")
OPTION(INPUT, "input", OPTION_TEXT, OPTION_RENDER, "prompt", "", NULL, 0, 0, NULL,
       "JSON object {messages, tools, add_generation_prompt, ...}; '-' reads stdin")
OPTION(JSONL, "jsonl", OPTION_BOOL, OPTION_TOKENIZE, "prompt", "", "false", 0, 0, NULL,
       "a JSON string a line in, a JSON array of ids a line out")
OPTION(ADD_SPECIAL, "add-special", OPTION_BOOL, OPTION_TOKENIZE, "prompt", "", "false", 0, 0, NULL,
       "add what the tokenizer adds (BOS)")
OPTION(SPECIAL, "special", OPTION_BOOL, OPTION_TOKENIZE, "prompt", "", "true", 0, 0, NULL,
       "special tokens in the text are parsed; --no-special: they are text")

OPTION(PROMPT_TOKENS, "prompt-tokens", OPTION_COUNT, OPTION_BENCH, "bench", "tokens", "512", 1, 1e7,
       NULL, "engine: prompt length")
OPTION(GEN_TOKENS, "gen-tokens", OPTION_COUNT, OPTION_BENCH, "bench", "tokens", "128", 0, 1e7, NULL,
       "engine: tokens generated")
OPTION(BATCH, "batch", OPTION_COUNT, OPTION_BENCH, "bench", "sequences", "1", 1, 8192, NULL,
       "engine: sequences at once")
OPTION(COLD, "cold", OPTION_BOOL, OPTION_BENCH, "bench", "", "false", 0, 0, NULL,
       "load: the page cache forgets the model's files first")
OPTION(REPEAT, "repeat", OPTION_COUNT, OPTION_BENCH, "bench", "", "3", 1, 1000, NULL,
       "engine: repetitions; the median is printed")

OPTION(INPUT_LEN, "input-len", OPTION_COUNT, OPTION_PLAN, "prediction", "tokens", NULL, 1, 1e7,
       NULL, "predict latency and throughput for prompts of that length, and suggest a split")
OPTION(OUTPUT_LEN, "output-len", OPTION_COUNT, OPTION_PLAN, "prediction", "tokens", "256", 1, 1e7,
       NULL, "with --input-len: tokens of an answer")
OPTION(CONCURRENCY, "concurrency", OPTION_COUNT, OPTION_PLAN, "prediction", "requests", NULL, 1,
       1e7, NULL, "requests under way at once (default: 80 % of what each layout can do)")
OPTION(TTFT, "ttft", OPTION_DURATION, OPTION_PLAN, "prediction", "ms", NULL, 0.001, 1e9, NULL,
       "first token within")
OPTION(ITL, "itl", OPTION_DURATION, OPTION_PLAN, "prediction", "ms", NULL, 0.001, 1e9, NULL,
       "between two tokens at most")
OPTION(DEVICE_RATES, "device-rates", OPTION_TEXT, OPTION_PLAN, "prediction", "", NULL, 0, 0, NULL,
       "GB/s,TFLOP/s of this machine or of each unknown card, or 'measure' (a second of all cores)")

OPTION(EXPLAIN, "explain", OPTION_BOOL, OPTION_PLAN, "output", "", "false", 0, 0, NULL,
       "every buffer with its bytes")
OPTION(JSON, "json", OPTION_BOOL,
       OPTION_RUN | OPTION_PLAN | OPTION_BENCH | OPTION_DOCTOR | OPTION_CHECK, "output", "",
       "false", 0, 0, NULL, "one JSON line instead of text")
OPTION(LOG_LEVEL, "log-level", OPTION_WORD, ALL_COMMANDS, "output", "", "info", 0, 0,
       "error|warn|info|debug", "")
OPTION(LOG_FORMAT, "log-format", OPTION_WORD, ALL_COMMANDS, "output", "", "auto", 0, 0,
       "auto|human|json", "lines for people or JSON lines")
OPTION(PRINT_CONFIG, "print-config", OPTION_BOOL, CLASSIC_COMMANDS | OPTION_RUN, "output", "",
       "false", 0, 0, NULL, "print each option with its value and source, then end")

#include "config/option_classic.h"
#include "config/option_fleet.h"
