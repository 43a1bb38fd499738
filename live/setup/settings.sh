# Part of setup_vllm.sh: which model, which settings, and the command that they make.
# shellcheck shell=bash

profile_keys='model tool_call_parser weights_gib max_model_len max_num_seqs max_num_batched_tokens'
profile_keys+=' gpu_memory_utilization tensor_parallel_size'
declare -A setting=()

# Flat YAML only, read strictly: what is not understood must not be left out in silence.
read_profile() {
  local key value
  while read -r key value; do
    [[ $key != '!' ]] || die "$profiles$value"
    setting[$key]=$value
  done < <(awk -v want="$1" -v known="$profile_keys" '
    function bad(text) { print "!", ", line " NR ": " text; failed = 1; exit }
    BEGIN {
      n = split(known, words)
      for (i = 1; i <= n; i++) { valid[words[i]]; list = list (i > 1 ? ", " : "") words[i] }
    }
    { sub(/(^|[ \t]+)#.*$/, ""); sub(/[ \t]+$/, "") }
    /^$/ { next }
    /^[a-z][a-z0-9-]*:$/ {
      profile = substr($0, 1, length($0) - 1)
      if (profile in seen) bad("profile " profile " is there twice")
      seen[profile]; names = names (names ? ", " : "") profile; next
    }
    profile == "" || !/^  [a-z_]+: [A-Za-z0-9._\/-]+$/ { bad("expected \"profile:\" or \"  key: value\"") }
    {
      key = substr($1, 1, length($1) - 1)
      if (!(key in valid)) bad("unknown key " key "; known: " list)
      if ((profile, key) in given) bad(key " is there twice")
      given[profile, key]
      if (profile == want) print key, $2
    }
    END { if (!failed && !(want in seen)) print "!", ": there is no profile " want "; known: " names }' "$profiles")
}

whole() { [[ $2 =~ ^[1-9][0-9]{0,8}$ ]] || die "$1=$2: give a whole number above 0"; }

part() {
  [[ $2 =~ ^(0?\.[0-9]*[1-9][0-9]*|1(\.0*)?)$ ]] || die "$1=$2: give a part of the GPU's memory, such as 0.85"
}

check_profile() {
  local key
  [[ -n ${setting[model]:-} ]] || die "$profiles: profile $1 has no model"
  for key in weights_gib max_model_len max_num_seqs max_num_batched_tokens tensor_parallel_size; do
    [[ -z ${setting[$key]:-} ]] || whole "$profiles: profile $1, $key" "${setting[$key]}"
  done
  [[ -z ${setting[gpu_memory_utilization]:-} ]] ||
    part "$profiles: profile $1, gpu_memory_utilization" "${setting[gpu_memory_utilization]}"
}

# The environment instead of the profile. What a profile knows of its model holds for no other.
override() {
  local pair name path
  for pair in MAX_MODEL_LEN:max_model_len MAX_NUM_SEQS:max_num_seqs MAX_BATCHED_TOKENS:max_num_batched_tokens; do
    name=${pair%:*}
    [[ -n ${!name:-} ]] || continue
    whole "$name" "${!name}"
    setting[${pair#*:}]=${!name}
  done
  if [[ -n ${GPU_MEMORY_UTIL:-} ]]; then
    [[ $mode == gpu ]] || die "GPU_MEMORY_UTIL is for GPUs; with --cpu set VLLM_CPU_KVCACHE_SPACE, in GiB"
    part GPU_MEMORY_UTIL "$GPU_MEMORY_UTIL"
    setting[gpu_memory_utilization]=$GPU_MEMORY_UTIL
  fi
  if [[ -n ${MODEL_NAME:-} && $MODEL_NAME != "${setting[model]}" ]]; then
    path=$(cd "$caller" && cd -- "$MODEL_NAME" 2>/dev/null && pwd) || path=''
    setting[model]=${path:-$MODEL_NAME} setting[weights_gib]='' setting[tool_call_parser]=''
  fi
}

resolve() {
  command -v curl >/dev/null || die "needs curl, and there is none on the PATH"
  if [[ -z $mode ]]; then
    if nvidia-smi >/dev/null 2>&1; then mode=gpu; else mode=cpu; fi
    say "neither --gpu nor --cpu, and nvidia-smi $([[ $mode == gpu ]] || echo 'does not ')answer$([[ $mode == cpu ]] ||
      echo s): --$mode"
  fi
  if [[ $mode == gpu ]]; then
    read_profile "${profile:-dev}"
    check_profile "${profile:-dev}"
  else
    [[ -z $profile ]] || die "--profile is for GPUs; with --cpu set MAX_MODEL_LEN, MAX_NUM_SEQS or MAX_BATCHED_TOKENS"
    setting=([model]=$PWD/$state/model [tool_call_parser]=hermes [max_model_len]=8192)
  fi
  override
  tiny=0
  [[ ${setting[model]} != "$PWD/$state/model" ]] || tiny=1
  hf_home=${HF_HOME:-${HOME:-.}/.cache/huggingface}
  ready_timeout=${READY_TIMEOUT:-600}
  whole READY_TIMEOUT "$ready_timeout"
  resolve_address
}

# Where the server listens, and where it is asked.
resolve_address() {
  host=${HOST:-127.0.0.1} port=${PORT:-8000} reach=$host
  whole PORT "$port"
  ((port < 65536)) || die "PORT=$port: the highest is 65535"
  case $host in 0.0.0.0 | ::) reach=127.0.0.1 ;; esac
  url=http://$reach:$port
  [[ $reach != *:* ]] || url="http://[$reach]:$port"
}

# `environment` and `server`: the command, the same in a venv and in a container but for names of places.
compose() {
  local key
  environment=(VLLM_SERVER_DEV_MODE="${VLLM_SERVER_DEV_MODE:-$(dev_mode)}" VLLM_NO_USAGE_STATS=1)
  options=(--scheduling-policy priority --enable-per-request-metrics --enable-prompt-tokens-details)
  for key in max_model_len max_num_seqs max_num_batched_tokens gpu_memory_utilization tensor_parallel_size; do
    [[ -z ${setting[$key]:-} ]] || options+=("--${key//_/-}" "${setting[$key]}")
  done
  if [[ -n ${setting[tool_call_parser]:-} ]]; then
    options+=(--enable-auto-tool-choice --tool-call-parser "${setting[tool_call_parser]}")
  else
    say "tool calls are off; add what ${setting[model]} needs: -- --enable-auto-tool-choice --tool-call-parser NAME"
  fi
  if [[ $mode == cpu ]]; then
    compose_cpu
  else
    choose_runtime
    "compose_$runtime"
  fi
  ((${#extra[@]} == 0)) || server+=("${extra[@]}")
}

# Development mode lets a client empty the prefix cache, and do worse: only for this machine.
dev_mode() {
  case $host in
    127.* | localhost | ::1) echo 1 ;;
    *)
      say "$host can be reached from other machines, so /reset_prefix_cache is off; VLLM_SERVER_DEV_MODE=1 turns it on"
      [[ -n ${VLLM_API_KEY:-} ]] || say "anyone who reaches it can use it: set VLLM_API_KEY"
      echo 0 ;;
  esac
}

compose_cpu() {
  runtime=venv
  # One process and one OpenMP thread start fastest; machines with many cores want more threads.
  environment+=(VLLM_CPU_KVCACHE_SPACE="${VLLM_CPU_KVCACHE_SPACE:-2}" VLLM_ENABLE_V1_MULTIPROCESSING=0
    OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}")
  options+=(--dtype bfloat16 --enforce-eager)
  if ((tiny)); then
    # Random weights write white space without end unless it is forbidden, and a tool's grammar forbids it only so.
    environment+=(HF_HUB_OFFLINE=1 VLLM_ENFORCE_STRICT_TOOL_CALLING=0)
    options+=(--served-model-name tiny-llama --load-format dummy
      --structured-outputs-config '{"backend":"xgrammar","disable_any_whitespace":true}')
  fi
  compose_venv .venv-vllm
}

# The module and not the console script, which the CPU build's other name breaks.
compose_venv() {
  server=("${1:-.venv-vllm-gpu}/bin/python" -m vllm.entrypoints.openai.api_server --model "${setting[model]}"
    --host "$host" --port "$port" "${options[@]}")
}

compose_docker() {
  local word gpus=all model=${setting[model]} publish=$host
  [[ -z ${CUDA_VISIBLE_DEVICES:-} ]] || gpus="\"device=$CUDA_VISIBLE_DEVICES\""
  [[ $host != *:* ]] || publish="[$host]"
  server=(docker run --detach --cidfile "$state/id" --gpus "$gpus" --ipc=host --publish "$publish:$port:8000"
    --volume "$hf_home:/root/.cache/huggingface")
  # By name only: docker takes the value from the environment.
  for word in HF_TOKEN HF_HUB_OFFLINE VLLM_API_KEY; do [[ -z ${!word:-} ]] || server+=(--env "$word"); done
  for word in "${environment[@]}"; do server+=(--env "$word"); done
  if [[ $model == /* ]]; then
    server+=(--volume "$model:/model:ro")
    options+=(--served-model-name "$(basename "$model")")
    model=/model
  fi
  server+=(--entrypoint python3 "$image" -m vllm.entrypoints.openai.api_server --model "$model"
    --host 0.0.0.0 --port 8000 "${options[@]}")
}
