/* Goal: each of the checks fires on its mistake, with severity, code, section, key, line, column
 * and words, on nothing else, and on no legal way to write the same; mended as far as it goes, a
 * file has only what needs a decision left, and each of its comments.
 *
 * A row is one of three legal files with some of its text replaced. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/num.h"
#include "config/yaml_fix.h"
#include "plan/check.h"

#define TEXT_MAX 16384

/* clang-format off */
static const char routed[] =
    "Common:\n"
    "  model: /models/DeepSeek-R1-Distill-Llama-8B\n"
    "  block-size: 64\n"
    "  max-model-len: 16384\n"
    "  kv-transfer-config: '{\"kv_connector\":\"DynamoNixlConnector\"}'\n"
    "\n"
    "Frontend:\n"
    "  served_model_name: ours\n"
    "  endpoint: dynamo.Processor.chat/completions\n"
    "  port: 8000\n"
    "\n"
    "Processor:\n"
    "  router: kv\n"
    "  common-configs: [model, block-size]\n"
    "\n"
    "Router:\n"
    "  min-workers: 1\n"
    "  common-configs: [model, block-size]\n"
    "\n"
    "VllmWorker:\n"
    "  remote-prefill: true\n"
    "  conditional-disagg: true\n"
    "  max-local-prefill-length: 10\n"
    "  max-prefill-queue-size: 2\n"
    "  tensor-parallel-size: 2\n"
    "  router: kv\n"
    "  enable-prefix-caching: true\n"
    "  ServiceArgs:\n"
    "    workers: 2\n"
    "    resources:\n"
    "      gpu: 2\n"
    "  common-configs: [model, block-size, max-model-len, kv-transfer-config]\n"
    "\n"
    "PrefillWorker:\n"
    "  max-num-batched-tokens: 16384\n"
    "  tensor-parallel-size: 1\n"
    "  ServiceArgs:\n"
    "    workers: 3\n"
    "    resources:\n"
    "      gpu: 1\n"
    "  common-configs: [model, block-size, max-model-len, kv-transfer-config]\n"
    "\n"
    "Planner:\n"
    "  environment: local\n"
    "  no-operation: true\n";

static const char plain[] =
    "# one worker, one card\n"
    "Frontend:\n"
    "  served_model_name: small\n"
    "  endpoint: dynamo.Processor.chat/completions\n"
    "  port: 8000\n"
    "Processor:\n"
    "  model: /models/Llama-3.1-8B-Instruct\n"
    "  block-size: 32\n"
    "  router: round-robin\n"
    "VllmWorker:\n"
    "  model: /models/Llama-3.1-8B-Instruct\n"
    "  block-size: 32\n"
    "  max-model-len: 8192\n"
    "  max-num-batched-tokens: 8192\n"
    "  gpu-memory-utilization: 0.9\n"
    "  enable-prefix-caching: true\n"
    "  ServiceArgs:\n"
    "    workers: 2\n"
    "    resources:\n"
    "      gpu: 1\n";

static const char large[] =
    "Common:\n"
    "  model: /models/DeepSeek-R1-Distill-Qwen-32B\n"
    "  kv-transfer-config: '{\"kv_connector\":\"DynamoNixlConnector\"}'\n"
    "  block-size: 64\n"
    "  max-model-len: 32768\n"
    "Frontend:\n"
    "  served_model_name: large\n"
    "  endpoint: dynamo.Processor.chat/completions\n"
    "Processor:\n"
    "  common-configs: [model, block-size]\n"
    "VllmWorker: # decodes\n"
    "  common-configs: [model, block-size, max-model-len, kv-transfer-config]\n"
    "  remote-prefill: true\n"
    "  tensor-parallel-size: 4\n"
    "  gpu-memory-utilization: 0.8\n"
    "  ServiceArgs:\n"
    "    workers: 2\n"
    "    resources:\n"
    "      gpu: 4\n"
    "PrefillWorker:\n"
    "  common-configs: [model, block-size, max-model-len, kv-transfer-config]\n"
    "  tensor-parallel-size: 4\n"
    "  gpu-memory-utilization: 0.8\n"
    "  max-num-batched-tokens: 32768\n"
    "  ServiceArgs:\n"
    "    workers: 2\n"
    "    resources:\n"
    "      gpu: 4\n";

enum base { ROUTED, PLAIN, LARGE };

struct replace {
    const char *from, *to;
};
struct expect {
    const char *line, *message; /* part of it */
};
static const struct row {
    const char *what;
    enum base base;
    enum graph_kind kind;
    const char *devices;
    struct replace edits[4];
    struct expect expects[6];
} rows[] = {
    {"the bases are legal", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{NULL, NULL}},
     {{NULL, NULL}}},
    {"the base", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{NULL, NULL}},
     {{NULL, NULL}}},
    {"the base", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{NULL, NULL}},
     {{NULL, NULL}}},
    {"the same in a graph without a router", ROUTED, GRAPH_DISAGG, "16xA100-40GB",
     {{NULL, NULL}},
     {{NULL, NULL}}},
    {"a plain file in a router graph", PLAIN, GRAPH_AGG_ROUTER, "16xA100-40GB",
     {{NULL, NULL}},
     {{NULL, NULL}}},
    {"numbers in quotes", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"gpu: 2", "gpu: '2'"},
      {"  tensor-parallel-size: 2", "  tensor-parallel-size: \"2\""}},
     {{NULL, NULL}}},
    {"numbers as YAML 1.1 writes them", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"max-model-len: 16384", "max-model-len: 16_384"}},
     {{NULL, NULL}}},
    {"underscores in keys", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"max-model-len", "max_model_len"},
      {"gpu-memory-utilization", "gpu_memory_utilization"}},
     {{NULL, NULL}}},
    {"a list in lines", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"[model, block-size]\n\nRouter", "\n    - model\n    - block-size\n\nRouter"}},
     {{NULL, NULL}}},
    {"the connector as a mapping", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"'{\"kv_connector\":\"DynamoNixlConnector\"}'", "{kv_connector: DynamoNixlConnector}"}},
     {{NULL, NULL}}},
    {"the connector unquoted", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"'{\"kv_connector\":\"DynamoNixlConnector\"}'",
       "{\"kv_connector\":\"NixlConnector\",\"kv_role\":\"kv_both\"}"}},
     {{NULL, NULL}}},
    {"a label that begins with a slash", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"served_model_name: small", "served_model_name: /small/v1"}},
     {{NULL, NULL}}},
    {"several labels", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"served_model_name: small", "served_model_name: [small, other]"}},
     {{NULL, NULL}}},
    {"the label by its old key", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"served_model_name: small", "model: small"}},
     {{NULL, NULL}}},
    {"booleans in all spellings", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"remote-prefill: true", "remote-prefill: Yes"},
      {"conditional-disagg: true", "conditional-disagg: \"on\""},
      {"enable-prefix-caching: true", "enable-prefix-caching: FALSE"}},
     {{NULL, NULL}}},
    {"prefill wider than decode", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"  tensor-parallel-size: 1", "  tensor-parallel-size: 4"},
      {"      gpu: 1", "      gpu: 4"},
      {"    workers: 3", "    workers: 1"}},
     {{NULL, NULL}}},
    {"always remote", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"conditional-disagg: true", "conditional-disagg: false"}},
     {{NULL, NULL}}},
    {"no gpu written", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"    resources:\n      gpu: 2\n", ""}},
     {{NULL, NULL}}},
    {"no ServiceArgs at all", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"  ServiceArgs:\n    workers: 2\n    resources:\n      gpu: 1\n", ""}},
     {{NULL, NULL}}},
    {"lists of cards that do not meet", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"    workers: 2\n",
       "    workers: 2\n    envs: [{name: CUDA_VISIBLE_DEVICES, value: \"0,1,2,3\"}]\n"},
      {"    workers: 3\n",
       "    workers: 3\n    envs:\n      - name: CUDA_VISIBLE_DEVICES\n        value: 4,5,6\n"}},
     {{NULL, NULL}}},
    {"cards by UUID", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"    workers: 2\n",
       "    workers: 1\n    envs: [{name: CUDA_VISIBLE_DEVICES, value: GPU-11112222-3333}]\n"}},
     {{NULL, NULL}}},
    {"a variable without a value", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"    workers: 2\n", "    workers: 2\n    envs:\n      - name: DEBUG\n"}},
     {{NULL, NULL}}},
    {"the compute dtype by its short name", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"  block-size: 32\n  max", "  dtype: bf16\n  block-size: 32\n  max"}},
     {{NULL, NULL}}},
    {"one component says what the other takes anyway", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  remote-prefill: true", "  dtype: bfloat16\n  remote-prefill: true"}},
     {{NULL, NULL}}},
    {"fp8 KV in two spellings", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  remote-prefill: true", "  kv-cache-dtype: fp8\n  remote-prefill: true"},
      {"  max-num-batched", "  kv_cache_dtype: fp8_e4m3\n  max-num-batched"}},
     {{NULL, NULL}}},
    {"a quantization that is made while loading", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"  block-size: 32\n  max", "  quantization: fp8\n  block-size: 32\n  max"}},
     {{NULL, NULL}}},
    {"a name that tells the format too", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"VllmWorker:\n  model: /models/Llama-3.1-8B-Instruct",
       "VllmWorker:\n  quantization: awq_marlin\n  model: /models/Llama-3.1-8B-Instruct-AWQ"},
      {"Processor:\n  model: /models/Llama-3.1-8B-Instruct",
       "Processor:\n  model: /models/Llama-3.1-8B-Instruct-AWQ"}},
     {{NULL, NULL}}},
    {"prompts in chunks of a whole window", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"max-num-batched-tokens: 8192",
       "max-num-batched-tokens: 8192\n  enable-chunked-prefill: false"}},
     {{NULL, NULL}}},
    {"chunks of 2,048", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"max-num-batched-tokens: 8192", "max-num-batched-tokens: 2048"}},
     {{NULL, NULL}}},
    {"engine flags without effect", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"  block-size: 32\n  max",
       "  enforce-eager: true\n  swap-space: 4\n  trust_remote_code: true\n  disable-log-requ"
       "ests: true\n  seed: 3\n  block-size: 32\n  max"}},
     {{NULL, NULL}}},
    {"sections that nothing runs", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"VllmWorker:",
       "Planner:\n  environment: local\nMockVllmWorker: {model: x}\nPrefillWorker: {model: y}"
       "\nVllmWorker:"}},
     {{NULL, NULL}}},
    {"anchors, merges, a holder of them", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"# one worker, one card\n",
       "x-model: &m\n  model: /models/Llama-3.1-8B-Instruct\n  block-size: 32\n"},
      {"Processor:\n  model: /models/Llama-3.1-8B-Instruct\n  block-size: 32",
       "Processor:\n  <<: *m"},
      {"VllmWorker:\n  model: /models/Llama-3.1-8B-Instruct\n  block-size: 32",
       "VllmWorker:\n  <<: [*m]"}},
     {{NULL, NULL}}},
    {"an org name beside a path, one tokenizer", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"Processor:\n  model: /models/", "Processor:\n  model: meta-llama/"}},
     {{NULL, NULL}}},
    {"a slash at the end", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"  tensor-parallel-size: 1",
       "  model: /models/DeepSeek-R1-Distill-Llama-8B/\n  tensor-parallel-size: 1"}},
     {{NULL, NULL}}},
    {"the router has no block size of its own", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"  min-workers: 1\n  common-configs: [model, block-size]",
       "  min-workers: 1\n  common-configs: [model]"}},
     {{NULL, NULL}}},
    {"no Router section", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"Router:\n  min-workers: 1\n  common-configs: [model, block-size]\n", ""}},
     {{NULL, NULL}}},
    {"the old name of the model", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"  min-workers: 1",
       "  model-name: /models/DeepSeek-R1-Distill-Llama-8B\n  custom-router: false\n  min-wor"
       "kers: 1"}},
     {{NULL, NULL}}},
    {"an empty list of common keys", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"  min-workers: 1\n  common-configs: [model, block-size]",
       "  min-workers: 1\n  common-configs: []"}},
     {{NULL, NULL}}},
    {"no common keys wanted", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"# one worker, one card", "Common:"}},
     {{NULL, NULL}}},
    {"all of the memory", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"gpu-memory-utilization: 0.9", "gpu-memory-utilization: 1"}},
     {{NULL, NULL}}},
    {"any port", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"port: 8000", "port: 0"}},
     {{NULL, NULL}}},
    {"no space", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"block-size: 64", "block-size:64"}},
     {{"error yaml-syntax - - 3:14", "a space is missing after ':'"}}},
    {"a tab", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"  min-workers: 1", "\tmin-workers: 1"}},
     {{"error yaml-tab - - 17:1",
       "the line is indented with a tab, and YAML allows only spaces"}}},
    {"a tab behind spaces", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"    workers: 2", "  \tworkers: 2"}},
     {{"error yaml-tab - - 18:3",
       "the line is indented with a tab, and YAML allows only spaces"}}},
    {"slips, and what else is wrong", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"  port: 8000", "\tport:80000"},
      {"utilization: 0.9", "utilization:9"}},
     {{"error yaml-tab - - 5:1", "the line is indented with a tab, and YAML allows only spaces"},
      {"error bad-value Frontend port 5:7", "80000 is out of range, 0 to 65535"},
      {"error yaml-syntax - - 5:8", "a space is missing after ':'"},
      {"error yaml-syntax - - 15:26", "a space is missing after ':'"},
      {"error bad-value VllmWorker gpu-memory-utilization 15:26",
       "9 is out of range, 0.01 to 1"}}},
    {"one space more", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"  block-size: 64", "   block-size: 64"}},
     {{"error yaml-syntax - - 3:4",
       "not YAML: indented by 3 spaces, and line 2 above it, which h"}}},
    {"no colon", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"  min-workers: 1", "  min-workers 1"}},
     {{"error yaml-syntax - - 17:3", "not YAML: a ':' is missing in this line"}}},
    {"no colon behind a section", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"Planner:", "Planner"}},
     {{"error yaml-syntax - - 43:1", "not YAML: a ':' is missing in this line"}}},
    {"an open quote", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"Connector\"}'", "Connector\"}"}},
     {{"error yaml-syntax - - 3:23", "not YAML: this quote is not closed (noticed in line 29)"}}},
    {"an open list", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"[model, block-size]", "[model, block-size"}},
     {{"error yaml-syntax - - 10:19", "not YAML: this '[' is not closed (noticed in line 11)"}}},
    {"two values", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"served_model_name: small", "served_model_name: small: large"}},
     {{"error yaml-syntax - - 3:27", "not YAML: mapping values are not allowed in this context"}}},
    {"an alias of nobody", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"served_model_name: small", "served_model_name: *small"}},
     {{"error yaml-syntax - - 3:22", "not YAML: found undefined alias"}}},
    {"a sign that begins nothing", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"served_model_name: small", "served_model_name: @small"}},
     {{"error yaml-syntax - - 3:22",
       "not YAML: found character that cannot start any token while "}}},
    {"two documents", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"VllmWorker:", "---\nVllmWorker:"}},
     {{"error yaml-documents - - 10:1", "a second document begins here"}}},
    {"a section", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"PrefillWorker:", "PrefilWorker:"}},
     {{"error unknown-section PrefilWorker - 34:1",
       "unknown section, did you mean PrefillWorker?"}}},
    {"a section in small letters", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"Processor:", "processor:"}},
     {{"error unknown-section processor - 12:1", "unknown section, did you mean Processor?"}}},
    {"a section of a later system", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"VllmWorker:", "DecodeWorker:"}},
     {{"error unknown-section DecodeWorker - 10:1", "unknown section, did you mean VllmWorker?"}}},
    {"a section of nowhere", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"Processor:", "Embedder: {a: b}\nProcessor:"}},
     {{"error unknown-section Embedder - 6:1", "unknown section"}}},
    {"a key", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"  tensor-parallel-size: 2", "  tensor-paralel-size: 2"}},
     {{"error unknown-key VllmWorker tensor-paralel-size 25:3",
       "unknown key, did you mean tensor-parallel-size?"}}},
    {"a key that others call so", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"  tensor-parallel-size: 2", "  tp: 2"}},
     {{"error unknown-key VllmWorker tp 25:3",
       "unknown key, did you mean tensor-parallel-size?"}}},
    {"a key of Common, once", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"max-model-len: 16384", "max-model-length: 16384"}},
     {{"error unknown-key Common max-model-length 4:3",
       "unknown key, did you mean max-model-len?"}}},
    {"far from any", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"  enable-prefix-caching: true", "  zzz: true"}},
     {{"error unknown-key VllmWorker zzz 16:3", "unknown key"}}},
    {"gpus", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"      gpu: 4\nPre", "      gpus: 4\nPre"}},
     {{"error unknown-key VllmWorker ServiceArgs.resources.gpus 19:7",
       "unknown key, did you mean gpu?"}}},
    {"replicas", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"    workers: 2\n    resources:\n      gpu: 4\nPre",
       "    replicas: 2\n    resources:\n      gpu: 4\nPre"}},
     {{"error unknown-key VllmWorker ServiceArgs.replicas 17:5",
       "unknown key, did you mean workers?"}}},
    {"ServiceArgs", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  ServiceArgs:\n    workers: 2\n    resources:\n      gpu: 4\nPre",
       "  service-args:\n    workers: 2\n    resources:\n      gpu: 4\nPre"}},
     {{"error unknown-key VllmWorker service-args 16:3",
       "unknown key, did you mean ServiceArgs?"}}},
    {"gpu a level too high", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"    resources:\n      gpu: 1", "    gpu: 1"}},
     {{"error unknown-key VllmWorker ServiceArgs.gpu 19:5",
       "unknown key here: it is ServiceArgs.resources.gpu"}}},
    {"workers two levels too high", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"  ServiceArgs:\n    workers: 2\n    resources:\n      gpu: 1\n", "  workers: 2\n"}},
     {{"error unknown-key VllmWorker workers 17:3",
       "unknown key here: it is ServiceArgs.workers"}}},
    {"an engine key among the ServiceArgs", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"    resources:\n      gpu: 1", "    max-num-seqs: 8\n    resources:\n      gpu: 1"}},
     {{"error unknown-key PrefillWorker ServiceArgs.max-num-seqs 39:5",
       "unknown key here: it is PrefillWorker.max-num-seqs"}}},
    {"envs", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"    workers: 3\n", "    workers: 3\n    env:\n      NCCL_DEBUG: INFO\n      A: \"b\"\n"}},
     {{"error unknown-key PrefillWorker ServiceArgs.env 39:5",
       "unknown key, did you mean envs?"}}},
    {"envs as a mapping", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"    workers: 3\n", "    workers: 3\n    envs:\n      A: b\n"}},
     {{"error wrong-type PrefillWorker ServiceArgs.envs 39:5",
       "a list of {name, value} is wanted"}}},
    {"a list by the wrong name", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"    workers: 3\n", "    workers: 3\n    env:\n      - name: A\n        value: b\n"}},
     {{"error unknown-key PrefillWorker ServiceArgs.env 39:5",
       "unknown key, did you mean envs?"}}},
    {"not supported", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"  enable-prefix-caching: true", "  enable-lora: true\n  cpu-offload-gb: 8"}},
     {{"error not-supported VllmWorker enable-lora 16:16",
       "'true' is not supported: adapters are not applied; serve the"},
      {"error not-supported VllmWorker cpu-offload-gb 17:19",
       "'8' is not supported: weights stay on the device; raise tens"}}},
    {"TP missing", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  tensor-parallel-size: 4\n  gpu-memory-utilization: 0.8\n  max",
       "  gpu-memory-utilization: 0.8\n  max"}},
     {{"error tp-missing PrefillWorker tensor-parallel-size 20:1",
       "missing, so it is 1, and gpu: 4 asks for 4: weights of 61.0 "}}},
    {"TP without a value", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  tensor-parallel-size: 4\n  gpu-memory-utilization: 0.8\n  max",
       "  tensor-parallel-size:\n  gpu-memory-utilization: 0.8\n  max"}},
     {{"error tp-missing PrefillWorker tensor-parallel-size 22:24",
       "missing, so it is 1, and gpu: 4 asks for 4: weights of 61.0 "}}},
    {"gpu for all workers", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"      gpu: 1", "      gpu: 3"}},
     {{"error gpu-differs PrefillWorker ServiceArgs.resources.gpu 40:12",
       "gpu is what each worker takes: 3 but tensor-parallel-size 1,"}}},
    {"gpu below TP", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"      gpu: 4\nPre", "      gpu: 1\nPre"}},
     {{"error gpu-differs VllmWorker ServiceArgs.resources.gpu 19:12",
       "1 GPU a worker and tensor-parallel-size 4 (line 14): each ra"}}},
    {"no gpu for a group", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"      gpu: 2", "      gpu: 0"}},
     {{"error gpu-differs VllmWorker ServiceArgs.resources.gpu 31:12",
       "0 GPUs a worker and tensor-parallel-size 2 (line 25): each r"}}},
    {"a group over nodes", LARGE, GRAPH_DISAGG, "8x(4xA100-40GB)",
     {{"  tensor-parallel-size: 4\n  gpu-memory-utilization: 0.8\n  max",
       "  tensor-parallel-size: 8\n  gpu-memory-utilization: 0.8\n  max"},
      {"32768\n  ServiceArgs:\n    workers: 2\n    resources:\n      gpu: 4",
       "32768\n  ServiceArgs:\n    workers: 2\n    resources:\n      gpu: 1"}},
     {{"warning not-served PrefillWorker tensor-parallel-size 22:25",
       "a group of 8 spans nodes of 4 cards: planned, but not served"}}},
    {"stages", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"  tensor-parallel-size: 2", "  tensor-parallel-size: 1\n  pipeline-parallel-size: 2"}},
     {{"warning not-served VllmWorker pipeline-parallel-size 26:27",
       "2 stages: planned, but not served yet; tensor-parallel-size "}}},
    {"too many workers", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"    workers: 2\n", "    workers: 9\n"}},
     {{"error too-few-devices VllmWorker ServiceArgs.workers 29:14",
       "the graph asks for 21 devices and there are 16: no room for "}}},
    {"too few cards", ROUTED, GRAPH_DISAGG_ROUTER, "4xA100-40GB",
     {{NULL, NULL}},
     {{"error too-few-devices PrefillWorker ServiceArgs.workers 38:14",
       "the graph asks for 7 devices and there are 4: no room for Pr"}}},
    {"a node is too small", LARGE, GRAPH_DISAGG, "8x(2xA100-80GB)",
     {{NULL, NULL}},
     {{"warning not-served VllmWorker tensor-parallel-size 14:25",
       "a group of 4 spans nodes of 2 cards: planned, but not served"},
      {"warning not-served PrefillWorker tensor-parallel-size 22:25",
       "a group of 4 spans nodes of 2 cards: planned, but not served"}}},
    {"weights beyond the card", LARGE, GRAPH_AGG, "16xA100-40GB",
     {{"  remote-prefill: true\n", ""},
      {"  tensor-parallel-size: 4", "  tensor-parallel-size: 1"},
      {"      gpu: 4", "      gpu: 1"}},
     {{"error does-not-fit VllmWorker tensor-parallel-size 13:25", ""}}},
    {"a share too small", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  tensor-parallel-size: 4\n  gpu-memory-utilization: 0.8\n  ServiceArgs",
       "  tensor-parallel-size: 4\n  gpu-memory-utilization: 0.4\n  ServiceArgs"}},
     {{"error does-not-fit VllmWorker gpu-memory-utilization 15:27", ""}}},
    {"room for one and a bit", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  tensor-parallel-size: 4\n  gpu-memory-utilization: 0.8\n  ServiceArgs",
       "  tensor-parallel-size: 4\n  gpu-memory-utilization: 0.5\n  ServiceArgs"}},
     {{"warning kv-small VllmWorker gpu-memory-utilization 15:27", ""}}},
    {"a card too small", PLAIN, GRAPH_AGG, "2xT4",
     {{NULL, NULL}},
     {{"error does-not-fit VllmWorker tensor-parallel-size 10:1", ""}}},
    {"a step too small without chunks", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"max-num-batched-tokens: 8192",
       "max-num-batched-tokens: 100\n  max-num-seqs: 8\n  enable-chunked-prefill: false"}},
     {{"error step-too-small VllmWorker max-num-batched-tokens 14:27",
       "100 is smaller than max-model-len 8192 and chunked prefill i"}}},
    {"a small step", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"max-num-batched-tokens: 8192", "max-num-batched-tokens: 100"}},
     {{"warning step-small VllmWorker max-num-batched-tokens 14:27",
       "prompts of up to 8192 tokens are computed in chunks of 100: "}}},
    {"fewer tokens than sequences", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"max-num-batched-tokens: 8192", "max-num-batched-tokens: 512\n  max-num-seqs: 1024"}},
     {{"error step-below-seqs VllmWorker max-num-batched-tokens 14:27",
       "512 is smaller than max-num-seqs 1024: a step holds a token "}}},
    {"another model", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"  tensor-parallel-size: 1", "  model: /models/llama\n  tensor-parallel-size: 1"}},
     {{"error model-differs PrefillWorker model 36:10",
       "'/models/llama' differs from VllmWorker: '/models/DeepSeek-R"}}},
    {"another tokenizer", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"Processor:\n  model: /models/Llama-3.1-8B-Instruct", "Processor:\n  model: my_model"}},
     {{"error model-differs Processor model 7:10",
       "'my_model' differs from VllmWorker: '/models/Llama-3.1-8B-In"}}},
    {"another block size", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"  min-workers: 1\n  common-configs: [model, block-size]",
       "  min-workers: 1\n  block-size: 16\n  common-configs: [model]"}},
     {{"error block-size-differs Router block-size 18:15",
       "block-size differs: Router 16 (line 18), VllmWorker 64 (line"}}},
    {"a block size by default", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"[model, block-size, max-model-len, kv-transfer-config]\n\nPlanner",
       "[model, max-model-len, kv-transfer-config]\n\nPlanner"}},
     {{"error block-size-differs PrefillWorker block-size 34:1",
       "block-size differs: PrefillWorker 16 (default), VllmWorker 6"}}},
    {"another KV format", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  remote-prefill: true", "  kv-cache-dtype: fp8\n  remote-prefill: true"}},
     {{"error kv-dtype-differs PrefillWorker kv-cache-dtype 21:1",
       "kv-cache-dtype differs: PrefillWorker auto (default), VllmWo"}}},
    {"a shorter length for prefill", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  max-num-batched", "  max-model-len: 16384\n  max-num-batched"}},
     {{"warning len-differs PrefillWorker max-model-len 24:18",
       "16384 is less than VllmWorker's 32768 (line 5): longer promp"}}},
    {"a shorter length that nobody wrote", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  max-model-len: 32768\n", ""},
      {"[model, block-size, max-model-len, kv-transfer-config]\n  rem",
       "[model, block-size, kv-transfer-config]\n  rem"},
      {"[model, block-size, max-model-len, kv-transfer-config]\n  ten",
       "[model, block-size, kv-transfer-config]\n  ten"},
      {"0.8\n  max", "0.6\n  max"}},
     {{"warning kv-small PrefillWorker gpu-memory-utilization 22:27",
       "at 0.6 the KV room is 103232 tokens, 1.0 requests of 103232;"}}},
    {"a shorter length beside what fits", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"[model, block-size, max-model-len, kv-transfer-config]\n  rem",
       "[model, block-size, kv-transfer-config]\n  rem"},
      {"max-model-len: 32768", "max-model-len: 16384"}},
     {{"warning len-differs PrefillWorker max-model-len 5:18",
       "16384 is less than VllmWorker's 131072 (default): longer pro"}}},
    {"a longer length for prefill", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  remote-prefill: true", "  max-model-len: 16384\n  remote-prefill: true"},
      {"  max-num-batched", "  max-model-len: 32768\n  max-num-batched"}},
     {{NULL, NULL}}},
    {"another compute type", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  remote-prefill: true", "  dtype: float16\n  remote-prefill: true"},
      {"  max-num-batched", "  dtype: bfloat16\n  max-num-batched"}},
     {{"error dtype-differs PrefillWorker dtype 25:10",
       "dtype differs: PrefillWorker bfloat16 (line 25), VllmWorker "}}},
    {"another label", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"  enable-prefix-caching: true",
       "  enable-prefix-caching: true\n  served-model-name: big"}},
     {{"error served-name-differs VllmWorker served-model-name 17:22",
       "'big' differs from Frontend's 'small'"}}},
    {"no switch", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  remote-prefill: true\n", ""}},
     {{"error remote-prefill-off VllmWorker remote-prefill 11:1",
       "the prefill workers would never get work: remote-prefill is "}}},
    {"the condition is no switch", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  remote-prefill: true", "  conditional-disagg: true"}},
     {{"error remote-prefill-off VllmWorker remote-prefill 11:1",
       "the prefill workers would never get work: remote-prefill is "}}},
    {"switched off", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  remote-prefill: true", "  remote-prefill: false"}},
     {{"error remote-prefill-off VllmWorker remote-prefill 13:19",
       "the prefill workers would never get work: remote-prefill is "}}},
    {"switched off by its no", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  remote-prefill: true", "  no-remote-prefill: true"}},
     {{"error remote-prefill-off VllmWorker remote-prefill 13:22",
       "the prefill workers would never get work: remote-prefill is "}}},
    {"a switch without a value", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  remote-prefill: true", "  remote-prefill:"}},
     {{"error remote-prefill-off VllmWorker remote-prefill 13:18",
       "the prefill workers would never get work: remote-prefill is "}}},
    {"on where nobody prefills", LARGE, GRAPH_AGG, "16xA100-40GB",
     {{NULL, NULL}},
     {{"error remote-prefill-agg VllmWorker remote-prefill 13:19",
       "the graph agg has no prefill workers"}}},
    {"no workers to prefill", PLAIN, GRAPH_DISAGG, "16xA100-40GB",
     {{NULL, NULL}},
     {{"error missing-section PrefillWorker - 1:1",
       "the graph disagg needs this section, and the file has none"}}},
    {"heads", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"  tensor-parallel-size: 2", "  tensor-parallel-size: 3"},
      {"gpu: 2", "gpu: 3"}},
     {{"error tp-heads VllmWorker tensor-parallel-size 25:25",
       "tensor-parallel-size is 3: 32 query heads and 8 KV heads can"}}},
    {"not in Common", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"[model, block-size, max-model-len, kv-transfer-config]\n\nPre",
       "[model, block-size, max-model-len, tensor-parallel-size]\n\nPre"}},
     {{"error common-missing VllmWorker common-configs 32:54",
       "Common has no key 'tensor-parallel-size'"}}},
    {"misspelt there", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"[model, block-size]\n\nRouter", "[modell, block-size]\n\nRouter"}},
     {{"error common-missing Processor common-configs 14:20",
       "Common has no key 'modell', did you mean model?"}}},
    {"a word for a list", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"Processor:\n  common-configs: [model, block-size]",
       "Processor:\n  common-configs: model"}},
     {{"error wrong-type Processor common-configs 10:19", "a list is wanted"}}},
    {"Common is a list, told once", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"Common:\n  model: /models/DeepSeek-R1-Distill-Qwen-32B\n",
       "Common: [model]\nProcesor:\n"}},
     {{"error wrong-type Common - 1:1", "a mapping of keys is wanted"},
      {"error unknown-section Procesor - 2:1", "unknown section, did you mean Processor?"},
      {"error model-missing VllmWorker model 11:1", "no model is given"},
      {"error model-missing PrefillWorker model 20:1", "no model is given"}}},
    {"a format is no type", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"  block-size: 32\n  max", "  dtype: fp8\n  block-size: 32\n  max"}},
     {{"error bad-value VllmWorker dtype 12:10",
       "'fp8' is none of auto|float16|bfloat16|float32"}}},
    {"another than the name says", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"  block-size: 32\n  max", "  quantization: gptq\n  block-size: 32\n  max"},
      {"VllmWorker:\n  model: /models/Llama-3.1-8B-Instruct",
       "VllmWorker:\n  model: /models/Llama-3.1-8B-Instruct-AWQ"},
      {"Processor:\n  model: /models/Llama-3.1-8B-Instruct",
       "Processor:\n  model: /models/Llama-3.1-8B-Instruct-AWQ"}},
     {{"error format-differs VllmWorker quantization 12:17",
       "'gptq', and the checkpoint's name says awq"}}},
    {"no format", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"  block-size: 32\n  max", "  quantization: zip\n  block-size: 32\n  max"}},
     {{"error bad-value VllmWorker quantization 12:17",
       "'zip' is no weight format that is known"}}},
    {"80", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"utilization: 0.9", "utilization: 90"}},
     {{"error bad-value VllmWorker gpu-memory-utilization 15:27",
       "90 is out of range, 0.01 to 1"}}},
    {"8", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"utilization: 0.9", "utilization: 9"}},
     {{"error bad-value VllmWorker gpu-memory-utilization 15:27",
       "9 is out of range, 0.01 to 1"}}},
    {"percent", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"utilization: 0.9", "utilization: 90%"}},
     {{"error bad-value VllmWorker gpu-memory-utilization 15:27", "'90%' is not a number"}}},
    {"a comma", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"utilization: 0.9", "utilization: 0,9"}},
     {{"error bad-value VllmWorker gpu-memory-utilization 15:27", "'0,9' is not a number"}}},
    {"nothing of it", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"utilization: 0.9", "utilization: 0"}},
     {{"error bad-value VllmWorker gpu-memory-utilization 15:27",
       "0 is out of range, 0.01 to 1"}}},
    {"thousands", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"max-model-len: 8192", "max-model-len: 8,192"}},
     {{"error bad-value VllmWorker max-model-len 13:18", "'8,192' is not a whole number"}}},
    {"negative", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"max-model-len: 8192", "max-model-len: -8192"}},
     {{"error bad-value VllmWorker max-model-len 13:18",
       "-8192 is out of range, 1 to 100000000 tokens"}}},
    {"yes for a number", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"  tensor-parallel-size: 2", "  tensor-parallel-size: yes"}},
     {{"error bad-value VllmWorker tensor-parallel-size 25:25", "'yes' is not a whole number"}}},
    {"a list for a number", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"max-model-len: 8192", "max-model-len: [8192]"}},
     {{"error wrong-type VllmWorker max-model-len 13:18",
       "a single value is wanted, this is a list"}}},
    {"a number for a switch", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  remote-prefill: true", "  remote-prefill: 2"}},
     {{"error bad-value VllmWorker remote-prefill 13:19", "'2' is not true or false"}}},
    {"a word that is none", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"  router: kv\n  common", "  router: kvv\n  common"}},
     {{"error bad-value Processor router 13:11",
       "'kvv' is none of random|round-robin|least-loaded|kv"}}},
    {"no power of two", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"VllmWorker:\n  model: /models/Llama-3.1-8B-Instruct\n  block-size: 32",
       "VllmWorker:\n  model: /models/Llama-3.1-8B-Instruct\n  block-size: 48"},
      {"Processor:\n  model: /models/Llama-3.1-8B-Instruct\n  block-size: 32",
       "Processor:\n  model: /models/Llama-3.1-8B-Instruct"}},
     {{"error bad-value VllmWorker block-size 11:15", "48 is none of 8, 16, 32, 64, 128"}}},
    {"beyond the ports", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"port: 8000", "port: 80000"}},
     {{"error bad-value Frontend port 5:9", "80000 is out of range, 0 to 65535"}}},
    {"no workers", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"    workers: 2", "    workers: 0"}},
     {{"error wrong-type VllmWorker ServiceArgs.workers 18:14",
       "'0' is not a number of workers, 1 to 4096"}}},
    {"half a card", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"gpu: 1", "gpu: 0.5"}},
     {{"error wrong-type VllmWorker ServiceArgs.resources.gpu 20:12",
       "'0.5' is not a whole number of GPUs, 0 to 1024"}}},
    {"longer than the model", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"max-model-len: 16384", "max-model-len: 200000"}},
     {{"error len-beyond-model VllmWorker max-model-len 4:18",
       "200000 is more than the 131072 tokens that deepseek-r1-disti"}}},
    {"a section that is a word", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"Processor:\n  common-configs: [model, block-size]", "Processor: yes"}},
     {{"error wrong-type Processor - 9:12",
       "a mapping of keys is wanted, this is a single value"}}},
    {"no value", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"max-model-len: 8192", "max-model-len:"}},
     {{"warning no-value VllmWorker max-model-len 13:17", "has no value: the default is taken"}}},
    {"no model", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  model: /models/DeepSeek-R1-Distill-Qwen-32B", "  model:"}},
     {{"error model-missing Processor model 2:9",
       "has no value, and every worker needs a model"}}},
    {"no model anywhere", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"VllmWorker:\n  model: /models/Llama-3.1-8B-Instruct\n", "VllmWorker:\n"}},
     {{"error model-missing VllmWorker model 10:1", "no model is given"}}},
    {"twice the same", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  remote-prefill: true", "  remote-prefill: true\n  remote-prefill: true"}},
     {{"error duplicate-key VllmWorker remote-prefill 14:3", "written twice, first in line 13"}}},
    {"twice and different", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"  block-size: 64", "  block-size: 64\n  block-size: 32"}},
     {{"error duplicate-key Common block-size 4:3", "written twice, first in line 3"}}},
    {"twice in two spellings", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"  max-model-len: 8192", "  max-model-len: 8192\n  max_model_len: 4096"}},
     {{"error duplicate-key VllmWorker max_model_len 14:3",
       "the same as max-model-len in line 13"}}},
    {"a section twice", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"Processor:", "Frontend: {port: 1}\nProcessor:"}},
     {{"error duplicate-key Frontend - 6:1", "written twice, first in line 2"}}},
    {"no JSON", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"'{\"kv_connector\":\"DynamoNixlConnector\"}'", "DynamoNixlConnector"}},
     {{"error kv-transfer-config VllmWorker kv-transfer-config 3:23",
       "this is not JSON: '[' or '{' expected near 'DynamoNixlConnec"}}},
    {"an unknown connector", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"'{\"kv_connector\":\"DynamoNixlConnector\"}'", "{kv_connector: DynamoNixlConector}"}},
     {{"error kv-transfer-config VllmWorker kv-transfer-config 3:23",
       "unknown connector 'DynamoNixlConector'; did you mean DynamoN"}}},
    {"no connector", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"'{\"kv_connector\":\"DynamoNixlConnector\"}'", "'{\"kv_role\":\"kv_both\"}'"}},
     {{"error kv-transfer-config VllmWorker kv-transfer-config 3:23", "kv_connector is missing"}}},
    {"a card twice", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"    workers: 2\n",
       "    workers: 2\n    envs: [{name: CUDA_VISIBLE_DEVICES, value: \"0,1,2,3\"}]\n"},
      {"    workers: 3\n",
       "    workers: 3\n    envs:\n      - name: CUDA_VISIBLE_DEVICES\n        value: 3,4,5\n"}},
     {{"error device-twice PrefillWorker ServiceArgs.envs 41:7",
       "device 3 is given to VllmWorker 1 and to PrefillWorker 0"}}},
    {"too short a list", ROUTED, GRAPH_DISAGG_ROUTER, "16xA100-40GB",
     {{"    workers: 2\n",
       "    workers: 2\n    envs: [{name: CUDA_VISIBLE_DEVICES, value: \"0,1\"}]\n"}},
     {{"error device-twice VllmWorker ServiceArgs.envs 30:11",
       "device 0 is given to VllmWorker 0 and to VllmWorker 1"}}},
    {"a card that is not there", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"    workers: 2\n",
       "    workers: 2\n    envs: [{name: CUDA_VISIBLE_DEVICES, value: \"15,16\"}]\n"}},
     {{"error too-few-devices VllmWorker ServiceArgs.envs 19:11",
       "VllmWorker is given device 16, and there are 16"}}},
    {"no list of cards", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"    workers: 2\n",
       "    workers: 2\n    envs: [{name: CUDA_VISIBLE_DEVICES, value: \"first\"}]\n"}},
     {{"error bad-devices VllmWorker ServiceArgs.envs 19:11",
       "CUDA_VISIBLE_DEVICES: 'first' is no card of this machine"}}},
    {"an unknown model", PLAIN, GRAPH_AGG, "16xA100-40GB",
     {{"VllmWorker:\n  model: /models/Llama-3.1-8B-Instruct",
       "VllmWorker:\n  model: acme/Ours-7B"},
      {"Processor:\n  model: /models/Llama-3.1-8B-Instruct",
       "Processor:\n  model: acme/Ours-7B"}},
     {{"warning model-unknown VllmWorker model 11:10",
       "memory not checked: no model of this name is known"}}},
    {"worst first, all at once", LARGE, GRAPH_DISAGG, "16xA100-40GB",
     {{"  remote-prefill: true\n", ""},
      {"  tensor-parallel-size: 4\n  gpu-memory-utilization: 0.8\n  max",
       "  gpu-memory-utilization: 80\n  max"},
      {"  common-configs: [model, block-size]\nVllm",
       "  common-configs: [model, block-sizes]\nVllm"},
      {"served_model_name: large", "served_model_name: large\n  prot: 8000"}},
     {{"error unknown-key Frontend prot 8:3", "unknown key, did you mean port?"},
      {"error common-missing Processor common-configs 11:27",
       "Common has no key 'block-sizes', did you mean block-size?"},
      {"error remote-prefill-off VllmWorker remote-prefill 12:1",
       "the prefill workers would never get work: remote-prefill is "},
      {"error tp-missing PrefillWorker tensor-parallel-size 20:1",
       "missing, so it is 1, and gpu: 4 asks for 4: weights of 61.0 "},
      {"error bad-value PrefillWorker gpu-memory-utilization 22:27",
       "80 is out of range, 0.01 to 1"}}},
};
/* clang-format on */

static const char *const bases[] = {[ROUTED] = routed, [PLAIN] = plain, [LARGE] = large};

static void make_text(const struct row *row, char *text) {
    snprintf(text, TEXT_MAX, "%s", bases[row->base]);
    for (size_t i = 0; i < ARRAY_COUNT(row->edits) && row->edits[i].from; i++) {
        static char rest[TEXT_MAX];
        char *at = strstr(text, row->edits[i].from);
        if (!at) {
            fail_msg("%s: '%s' is not there", row->what, row->edits[i].from);
            return;
        }
        snprintf(rest, sizeof rest, "%s", at + strlen(row->edits[i].from));
        snprintf(at, TEXT_MAX - (size_t) (at - text), "%s%s", row->edits[i].to, rest);
    }
}

static void check_text(const struct row *row, const char *text, struct problem_list *problems) {
    struct device_list list;
    struct err_text why;
    struct graph graph;
    struct graph_source source = {
        .name = "file", .yaml = (const uint8_t *) text, .bytes = strlen(text)};
    assert_int_equal(device_list_parse(row->devices, NULL, &why, &list), ERR_OK);
    enum err e = graph_read(row->kind, &source, problems, &graph);
    assert_true(e == ERR_OK || e == ERR_USAGE);
    const struct graph_plan_target plan = {.devices = &list, .thread_count = 1};
    const struct check_target target = {.plan = &plan, .is_elsewhere = true};
    if (graph.sections[GRAPH_VLLM_WORKER].is_present)
        assert_int_equal(check_graph(&graph, &target, problems), ERR_OK);
    graph_release(&graph);
    device_list_release(&list);
    problem_sort(problems);
}

static void complain(const struct row *row, const char *text, const struct problem_list *problems) {
    struct buf out;
    buf_init(&out, 0);
    problem_print(problems, row->what, false, &out);
    print_message("%s\n%s", text, buf_string(&out));
    buf_release(&out);
    fail_msg("%s", row->what);
}

static void test_rows(void **state) {
    (void) state;
    static char text[TEXT_MAX];
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        const struct row *row = &rows[i];
        struct problem_list problems = {0};
        make_text(row, text);
        check_text(row, text, &problems);
        uint32_t at = 0;
        for (uint32_t k = 0; k < problems.count; k++) {
            const struct problem *problem = &problems.items[k];
            char line[256];
            if (problem->severity == PROBLEM_NOTE) continue;
            snprintf(
                line, sizeof line, "%s %s %s %s %u:%u", problem_severity_name(problem->severity),
                problem->code, problem->component[0] ? problem->component : "-",
                problem->key[0] ? problem->key : "-", problem->mark.line, problem->mark.column);
            const struct expect *expect = &row->expects[at++];
            if (at > ARRAY_COUNT(row->expects) || !expect->line ||
                strcmp(expect->line, line) != 0 || !strstr(problem->message, expect->message))
                complain(row, text, &problems);
        }
        if (at < ARRAY_COUNT(row->expects) && row->expects[at].line) complain(row, text, &problems);
        problem_release(&problems);
    }
}

static void test_mended(void **state) {
    (void) state;
    static char text[TEXT_MAX], before[TEXT_MAX];
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        const struct row *row = &rows[i];
        struct problem_list problems = {0};
        make_text(row, text);
        check_text(row, text, &problems);
        for (int pass = 0; pass < 8; pass++) {
            struct buf out;
            buf_init(&out, TEXT_MAX - 1);
            snprintf(before, sizeof before, "%s", text);
            if (!yaml_fix_apply((const uint8_t *) text, strlen(text), &problems, &out)) {
                buf_release(&out);
                break;
            }
            assert_int_equal(out.failed, ERR_OK);
            memcpy(text, out.data, out.bytes);
            text[out.bytes] = '\0';
            buf_release(&out);
            problem_release(&problems);
            check_text(row, text, &problems);
        }
        for (uint32_t k = 0; k < problems.count; k++) {
            const struct problem *problem = &problems.items[k];
            /* What is left is a person's to decide, and says so. */
            bool is_error = problem->severity == PROBLEM_ERROR;
            bool is_flow = problem->edit == PROBLEM_EDIT_REMOVE; /* not a line of its own */
            if (is_error && (!problem->fix || (problem->edit != PROBLEM_EDIT_NONE && !is_flow)))
                complain(row, text, &problems);
        }
        if (row->base == LARGE) assert_non_null(strstr(text, "# decodes"));
        problem_release(&problems);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_mended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
