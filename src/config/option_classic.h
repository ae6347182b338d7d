/* option_classic - the rest of option.h's table: the flags of the vLLM beneath Dynamo 0.1-0.3, and
 * of its components, that are not honoured here; no include guard, it is read several times.
 *
 * CLASSIC(id, name, type, standing, harmless value, what instead).  Accepted without effect are
 * those whose absence changes no answer; refused those that would.  From facts/engines.md 1.3 and
 * vLLM's engine arguments of that time. */
/* clang-format off */
#define IGNORED(id, name, type) CLASSIC(id, name, type, OPTION_IGNORED, NULL, "no effect here")
#define REFUSED(id, name, type, harmless, instead) \
    CLASSIC(id, name, type, OPTION_REFUSED, harmless, instead)
IGNORED(DISABLE_LOG_REQUESTS, "disable-log-requests", OPTION_BOOL)
IGNORED(DISABLE_LOG_STATS, "disable-log-stats", OPTION_BOOL)
IGNORED(ENFORCE_EAGER, "enforce-eager", OPTION_BOOL)
IGNORED(SWAP_SPACE, "swap-space", OPTION_TEXT)
IGNORED(TRUST_REMOTE_CODE, "trust-remote-code", OPTION_BOOL)
IGNORED(TOKENIZER_MODE, "tokenizer-mode", OPTION_TEXT)
IGNORED(DOWNLOAD_DIR, "download-dir", OPTION_TEXT)
IGNORED(REVISION, "revision", OPTION_TEXT)
IGNORED(CODE_REVISION, "code-revision", OPTION_TEXT)
IGNORED(TOKENIZER_REVISION, "tokenizer-revision", OPTION_TEXT)
IGNORED(CONFIG_FORMAT, "config-format", OPTION_TEXT)
IGNORED(HF_TOKEN, "hf-token", OPTION_TEXT)
IGNORED(HF_CONFIG_PATH, "hf-config-path", OPTION_TEXT)
IGNORED(ALLOWED_LOCAL_MEDIA_PATH, "allowed-local-media-path", OPTION_TEXT)
IGNORED(GUIDED_DECODING_BACKEND, "guided-decoding-backend", OPTION_TEXT)
IGNORED(GUIDED_DECODING_DISABLE_FALLBACK, "guided-decoding-disable-fallback", OPTION_BOOL)
IGNORED(LOGITS_PROCESSOR_PATTERN, "logits-processor-pattern", OPTION_TEXT)
IGNORED(MODEL_IMPL, "model-impl", OPTION_TEXT)
IGNORED(DISTRIBUTED_EXECUTOR_BACKEND, "distributed-executor-backend", OPTION_TEXT)
IGNORED(WORKER_USE_RAY, "worker-use-ray", OPTION_BOOL)
IGNORED(MAX_PARALLEL_LOADING_WORKERS, "max-parallel-loading-workers", OPTION_TEXT)
IGNORED(RAY_WORKERS_USE_NSIGHT, "ray-workers-use-nsight", OPTION_BOOL)
IGNORED(PREFIX_CACHING_HASH_ALGO, "prefix-caching-hash-algo", OPTION_TEXT)
IGNORED(USE_V2_BLOCK_MANAGER, "use-v2-block-manager", OPTION_BOOL)
IGNORED(NUM_LOOKAHEAD_SLOTS, "num-lookahead-slots", OPTION_TEXT)
IGNORED(MAX_NUM_PARTIAL_PREFILLS, "max-num-partial-prefills", OPTION_TEXT)
IGNORED(MAX_LONG_PARTIAL_PREFILLS, "max-long-partial-prefills", OPTION_TEXT)
IGNORED(LONG_PREFILL_TOKEN_THRESHOLD, "long-prefill-token-threshold", OPTION_TEXT)
IGNORED(MAX_SEQ_LEN_TO_CAPTURE, "max-seq-len-to-capture", OPTION_TEXT)
IGNORED(DISABLE_CUSTOM_ALL_REDUCE, "disable-custom-all-reduce", OPTION_BOOL)
IGNORED(TOKENIZER_POOL_SIZE, "tokenizer-pool-size", OPTION_TEXT)
IGNORED(TOKENIZER_POOL_TYPE, "tokenizer-pool-type", OPTION_TEXT)
IGNORED(TOKENIZER_POOL_EXTRA_CONFIG, "tokenizer-pool-extra-config", OPTION_TEXT)
IGNORED(LIMIT_MM_PER_PROMPT, "limit-mm-per-prompt", OPTION_TEXT)
IGNORED(MM_PROCESSOR_KWARGS, "mm-processor-kwargs", OPTION_TEXT)
IGNORED(DISABLE_MM_PREPROCESSOR_CACHE, "disable-mm-preprocessor-cache", OPTION_BOOL)
IGNORED(MAX_LORAS, "max-loras", OPTION_TEXT)
IGNORED(MAX_LORA_RANK, "max-lora-rank", OPTION_TEXT)
IGNORED(LORA_EXTRA_VOCAB_SIZE, "lora-extra-vocab-size", OPTION_TEXT)
IGNORED(LORA_DTYPE, "lora-dtype", OPTION_TEXT)
IGNORED(LONG_LORA_SCALING_FACTORS, "long-lora-scaling-factors", OPTION_TEXT)
IGNORED(MAX_CPU_LORAS, "max-cpu-loras", OPTION_TEXT)
IGNORED(FULLY_SHARDED_LORAS, "fully-sharded-loras", OPTION_BOOL)
IGNORED(MAX_PROMPT_ADAPTERS, "max-prompt-adapters", OPTION_TEXT)
IGNORED(MAX_PROMPT_ADAPTER_TOKEN, "max-prompt-adapter-token", OPTION_TEXT)
IGNORED(DEVICE, "device", OPTION_TEXT)
IGNORED(NUM_SCHEDULER_STEPS, "num-scheduler-steps", OPTION_TEXT)
IGNORED(USE_TQDM_ON_LOAD, "use-tqdm-on-load", OPTION_BOOL)
IGNORED(MULTI_STEP_STREAM_OUTPUTS, "multi-step-stream-outputs", OPTION_BOOL)
IGNORED(SCHEDULER_DELAY_FACTOR, "scheduler-delay-factor", OPTION_TEXT)
IGNORED(SPECULATIVE_DISABLE_MQA_SCORER, "speculative-disable-mqa-scorer", OPTION_BOOL)
IGNORED(MODEL_LOADER_EXTRA_CONFIG, "model-loader-extra-config", OPTION_TEXT)
IGNORED(IGNORE_PATTERNS, "ignore-patterns", OPTION_TEXT)
IGNORED(PREEMPTION_MODE, "preemption-mode", OPTION_TEXT)
IGNORED(SHOW_HIDDEN_METRICS_FOR_VERSION, "show-hidden-metrics-for-version", OPTION_TEXT)
IGNORED(OTLP_TRACES_ENDPOINT, "otlp-traces-endpoint", OPTION_TEXT)
IGNORED(COLLECT_DETAILED_TRACES, "collect-detailed-traces", OPTION_TEXT)
IGNORED(DISABLE_ASYNC_OUTPUT_PROC, "disable-async-output-proc", OPTION_BOOL)
IGNORED(SCHEDULER_CLS, "scheduler-cls", OPTION_TEXT)
IGNORED(OVERRIDE_NEURON_CONFIG, "override-neuron-config", OPTION_TEXT)
IGNORED(COMPILATION_CONFIG, "compilation-config", OPTION_TEXT)
IGNORED(WORKER_CLS, "worker-cls", OPTION_TEXT)
IGNORED(WORKER_EXTENSION_CLS, "worker-extension-cls", OPTION_TEXT)
IGNORED(ENABLE_SLEEP_MODE, "enable-sleep-mode", OPTION_BOOL)
IGNORED(CALCULATE_KV_SCALES, "calculate-kv-scales", OPTION_BOOL)
IGNORED(ADDITIONAL_CONFIG, "additional-config", OPTION_TEXT)
IGNORED(DISABLE_CASCADE_ATTN, "disable-cascade-attn", OPTION_BOOL)
IGNORED(DISABLE_CHUNKED_MM_INPUT, "disable-chunked-mm-input", OPTION_BOOL)
IGNORED(MAX_LOGPROBS, "max-logprobs", OPTION_TEXT)
IGNORED(MAX_LOG_LEN, "max-log-len", OPTION_TEXT)
IGNORED(CUDA_GRAPH_SIZES, "cuda-graph-sizes", OPTION_TEXT)
IGNORED(ASYNC_SCHEDULING, "async-scheduling", OPTION_BOOL)
IGNORED(KV_EVENTS_CONFIG, "kv-events-config", OPTION_TEXT)
IGNORED(DISABLE_SLIDING_WINDOW, "disable-sliding-window", OPTION_BOOL)
IGNORED(ROUTER_NUM_THREADS, "router-num-threads", OPTION_TEXT)
IGNORED(CUSTOM_ROUTER, "custom-router", OPTION_BOOL)
IGNORED(UVICORN_LOG_LEVEL, "uvicorn-log-level", OPTION_TEXT)
IGNORED(DISABLE_FRONTEND_MULTIPROCESSING, "disable-frontend-multiprocessing", OPTION_BOOL)
IGNORED(RETURN_TOKENS_AS_TOKEN_IDS, "return-tokens-as-token-ids", OPTION_BOOL)
IGNORED(ENABLE_SERVER_LOAD_TRACKING, "enable-server-load-tracking", OPTION_BOOL)
IGNORED(DISABLE_UVICORN_ACCESS_LOG, "disable-uvicorn-access-log", OPTION_BOOL)
IGNORED(ENABLE_REQUEST_ID_HEADERS, "enable-request-id-headers", OPTION_BOOL)
IGNORED(RAY_OBJECT_STORE_MEMORY, "ray-object-store-memory", OPTION_TEXT)
IGNORED(DISABLE_HYBRID_KV_CACHE_MANAGER, "disable-hybrid-kv-cache-manager", OPTION_BOOL)
IGNORED(ENABLE_PROMPT_TOKENS_DETAILS, "enable-prompt-tokens-details", OPTION_BOOL)
IGNORED(SAFETENSORS_LOAD_STRATEGY, "safetensors-load-strategy", OPTION_TEXT)

REFUSED(DATA_PARALLEL_SIZE, "data-parallel-size", OPTION_TEXT, "1",
        "use ServiceArgs.workers: replicas behind the router")
REFUSED(ENABLE_EXPERT_PARALLEL, "enable-expert-parallel", OPTION_BOOL, NULL,
        "models with experts are not built")
REFUSED(TASK, "task", OPTION_TEXT, "auto",
        "only generation is served")
REFUSED(TOKENIZER, "tokenizer", OPTION_TEXT, NULL,
        "the tokenizer is that of the model; remove the key")
REFUSED(SKIP_TOKENIZER_INIT, "skip-tokenizer-init", OPTION_BOOL, NULL,
        "text in and text out need the tokenizer")
REFUSED(HF_OVERRIDES, "hf-overrides", OPTION_TEXT, "{}",
        "the model is what its config.json says; change that file")
REFUSED(ROPE_SCALING, "rope-scaling", OPTION_TEXT, NULL,
        "the model is what its config.json says; change rope_scaling there")
REFUSED(ROPE_THETA, "rope-theta", OPTION_TEXT, NULL,
        "the model is what its config.json says; change rope_theta there")
REFUSED(QUANTIZATION_PARAM_PATH, "quantization-param-path", OPTION_TEXT, NULL,
        "fp8 KV scales from a file are not read; use kv-cache-dtype")
REFUSED(CPU_OFFLOAD_GB, "cpu-offload-gb", OPTION_TEXT, "0",
        "weights stay on the device; raise tensor-parallel-size")
REFUSED(NUM_GPU_BLOCKS_OVERRIDE, "num-gpu-blocks-override", OPTION_TEXT, NULL,
        "use kv-cache-memory-bytes")
REFUSED(ENABLE_LORA, "enable-lora", OPTION_BOOL, NULL,
        "adapters are not applied; serve the merged model")
REFUSED(ENABLE_LORA_BIAS, "enable-lora-bias", OPTION_BOOL, NULL,
        "adapters are not applied; serve the merged model")
REFUSED(LORA_MODULES, "lora-modules", OPTION_TEXT, NULL,
        "adapters are not applied; serve the merged model")
REFUSED(QLORA_ADAPTER_NAME_OR_PATH, "qlora-adapter-name-or-path", OPTION_TEXT, NULL,
        "adapters are not applied; serve the merged model")
REFUSED(ENABLE_PROMPT_ADAPTER, "enable-prompt-adapter", OPTION_BOOL, NULL,
        "adapters are not applied; serve the merged model")
REFUSED(PROMPT_ADAPTERS, "prompt-adapters", OPTION_TEXT, NULL,
        "adapters are not applied; serve the merged model")
REFUSED(SPECULATIVE_CONFIG, "speculative-config", OPTION_TEXT, NULL,
        "speculative decoding is not built; remove the key")
REFUSED(SPECULATIVE_MODEL, "speculative-model", OPTION_TEXT, NULL,
        "speculative decoding is not built; remove the key")
REFUSED(NUM_SPECULATIVE_TOKENS, "num-speculative-tokens", OPTION_TEXT, "0",
        "speculative decoding is not built; remove the key")
REFUSED(SPECULATIVE_MODEL_QUANTIZATION, "speculative-model-quantization", OPTION_TEXT, NULL,
        "speculative decoding is not built; remove the key")
REFUSED(SPECULATIVE_DRAFT_TENSOR_PARALLEL_SIZE, "speculative-draft-tensor-parallel-size",
        OPTION_TEXT, NULL,
        "speculative decoding is not built; remove the key")
REFUSED(SPECULATIVE_MAX_MODEL_LEN, "speculative-max-model-len", OPTION_TEXT, NULL,
        "speculative decoding is not built; remove the key")
REFUSED(SPECULATIVE_DISABLE_BY_BATCH_SIZE, "speculative-disable-by-batch-size", OPTION_TEXT, NULL,
        "speculative decoding is not built; remove the key")
REFUSED(NGRAM_PROMPT_LOOKUP_MAX, "ngram-prompt-lookup-max", OPTION_TEXT, NULL,
        "speculative decoding is not built; remove the key")
REFUSED(NGRAM_PROMPT_LOOKUP_MIN, "ngram-prompt-lookup-min", OPTION_TEXT, NULL,
        "speculative decoding is not built; remove the key")
REFUSED(SPEC_DECODING_ACCEPTANCE_METHOD, "spec-decoding-acceptance-method",
        OPTION_TEXT, "rejection_sampler",
        "speculative decoding is not built; remove the key")
REFUSED(TYPICAL_ACCEPTANCE_SAMPLER_POSTERIOR_THRESHOLD,
        "typical-acceptance-sampler-posterior-threshold",
        OPTION_TEXT, NULL,
        "speculative decoding is not built; remove the key")
REFUSED(TYPICAL_ACCEPTANCE_SAMPLER_POSTERIOR_ALPHA, "typical-acceptance-sampler-posterior-alpha",
        OPTION_TEXT, NULL,
        "speculative decoding is not built; remove the key")
REFUSED(DISABLE_LOGPROBS_DURING_SPEC_DECODING, "disable-logprobs-during-spec-decoding",
        OPTION_BOOL, NULL,
        "speculative decoding is not built; remove the key")
REFUSED(SCHEDULING_POLICY, "scheduling-policy", OPTION_TEXT, "fcfs",
        "requests are served in the order of arrival")
REFUSED(OVERRIDE_POOLER_CONFIG, "override-pooler-config", OPTION_TEXT, NULL,
        "only generation is served")
REFUSED(OVERRIDE_GENERATION_CONFIG, "override-generation-config", OPTION_TEXT, NULL,
        "edit generation_config.json, or set the fields in the request")
REFUSED(ENABLE_REASONING, "enable-reasoning", OPTION_BOOL, NULL,
        "reasoning comes back as content; remove the key")
REFUSED(REASONING_PARSER, "reasoning-parser", OPTION_TEXT, NULL,
        "reasoning comes back as content; remove the key")
REFUSED(ENABLE_AUTO_TOOL_CHOICE, "enable-auto-tool-choice", OPTION_BOOL, NULL,
        "tool calls come back as content; remove the key")
REFUSED(TOOL_CALL_PARSER, "tool-call-parser", OPTION_TEXT, NULL,
        "tool calls come back as content; remove the key")
REFUSED(CHAT_TEMPLATE, "chat-template", OPTION_TEXT, NULL,
        "the template is that of the model; change it in its tokenizer_config.json")
REFUSED(PROMPT_TEMPLATE, "prompt-template", OPTION_TEXT, NULL,
        "the template is that of the model; remove the key")
REFUSED(RESPONSE_ROLE, "response-role", OPTION_TEXT, "assistant",
        "the role is assistant")
REFUSED(DECODE_CONTEXT_PARALLEL_SIZE, "decode-context-parallel-size", OPTION_TEXT, "1",
        "use tensor-parallel-size")
REFUSED(DATA_PARALLEL_BACKEND, "data-parallel-backend", OPTION_TEXT, NULL,
        "use ServiceArgs.workers: replicas behind the router")
REFUSED(DATA_PARALLEL_ADDRESS, "data-parallel-address", OPTION_TEXT, NULL,
        "use ServiceArgs.workers: replicas behind the router")
REFUSED(DATA_PARALLEL_RPC_PORT, "data-parallel-rpc-port", OPTION_TEXT, NULL,
        "use ServiceArgs.workers: replicas behind the router")
REFUSED(DATA_PARALLEL_SIZE_LOCAL, "data-parallel-size-local", OPTION_TEXT, "1",
        "use ServiceArgs.workers: replicas behind the router")
#undef IGNORED
#undef REFUSED
/* clang-format on */
