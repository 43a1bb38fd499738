# Part of setup_vllm.sh: the server that was started, and what is noted of it in .vllm:
# id (of its process or container), kind (venv or docker), port, url, command and log.
# shellcheck shell=bash

noted() { [[ ! -f $state/$1 ]] || cat "$state/$1"; }
write() { if ((dry)); then echo "# $1: $2"; else printf '%s\n' "$2" >"$1"; fi; }

# Whether it runs. A process that only has the number of ours is not ours: its command must be the server's.
running() {
  local id
  id=$(noted id)
  [[ -n $id ]] || return 1
  if [[ $(noted kind) == docker ]]; then
    [[ $(docker inspect --format '{{.State.Running}}' "$id" 2>/dev/null) == true ]]
  else
    [[ $(command_of "$id") == *"vllm.entrypoints.openai.api_server "*" --port $(noted port) "* ]]
  fi
}

command_of() {
  if [[ -d /proc/self ]]; then tr '\0' ' ' <"/proc/$1/cmdline"; else ps -ww -o args= -p "$1"; fi 2>/dev/null || true
}

# The log, or so many of its last lines.
log_text() {
  if [[ $(noted kind) == docker && -f $state/id ]]; then
    docker logs --tail "${1:-all}" "$(noted id)" 2>&1
  else
    tail -n "${1:-+1}" "$state/log"
  fi
}

# The key goes to curl by its standard input: a command line can be read by others.
get() {
  { [[ -z ${VLLM_API_KEY:-} ]] || printf 'header = "Authorization: Bearer %s"\n' "$VLLM_API_KEY"; } |
    curl -fs -m 5 --noproxy '*' -K - "$url$1" 2>/dev/null
}

healthy() { get /health >/dev/null; }

launch() {
  run mkdir -p "$state"
  run rm -f "$state/id"
  write "$state/command" "$wanted"
  write "$state/kind" "$runtime"
  write "$state/port" "$port"
  write "$state/url" "$url"
  "launch_$runtime"
}

launch_docker() {
  run mkdir -p "$hf_home" # or docker would make it root's
  if ((dry)); then echo "$(quoted "${server[@]}") >$state/log"; return; fi
  "${server[@]}" >"$state/log" 2>&1 || failed
}

launch_venv() {
  local pid
  if ((dry)); then
    echo "$(quoted env "${environment[@]}" "${server[@]}") >$state/log 2>&1 &"
    write "$state/id" "the number of that process"
    return
  fi
  set -m # a process group of its own: Ctrl-C does not reach it, and the engine ends with it
  nohup env "${environment[@]}" "${server[@]}" >"$state/log" 2>&1 </dev/null &
  pid=$!
  set +m
  disown "$pid"
  write "$state/id" "$pid"
  # It begins as a copy of this script, which is not yet what `running` looks for.
  while kill -0 "$pid" 2>/dev/null && ! running; do sleep 0.1; done
}

# The last line of the log in which there is something, for a terminal.
last_line() { log_text 20 | tr -cd '[:print:]\n' | awk 'NF { line = $0 } END { print substr(line, 1, 100) }' || true; }

# Until the server answers.
await() {
  local began=$SECONDS next=0 elapsed last
  trap 'say; fail "interrupted; the server goes on starting: --status tells, --stop ends it"' INT
  until healthy; do
    running || failed
    elapsed=$((SECONDS - began))
    last=$(last_line)
    ((elapsed < ready_timeout)) || fail "not ready after $ready_timeout s, and still starting: the same command with" \
      "READY_TIMEOUT=$((ready_timeout * 2)) goes on waiting, --logs tells more, --stop ends it; last line: $last"
    if [[ -t 2 ]]; then
      printf '\r\033[K%4d s  %s' "$elapsed" "$last" >&2
    elif ((elapsed >= next)); then
      say "$elapsed s  $last"
      next=$((elapsed + 5))
    fi
    sleep 0.5
  done
  trap - INT
  [[ ! -t 2 ]] || printf '\r\033[K' >&2
  say "it answers after $((SECONDS - began)) s"
}

# The server has ended: what it said last, and the mend where the failure is a usual one.
failed() {
  local text id
  [[ ! -t 2 ]] || say
  text=$(noted log)
  id=$(noted id)
  if [[ $(noted kind) == docker ]]; then
    text+=$'\n'$(log_text) || true
    printf '%s\n' "$text" >"$state/log"
    [[ -z $id ]] || docker rm --force "$id" >/dev/null 2>&1 || true
  else
    kill -KILL -- "-$id" 2>/dev/null || true # what is left of its group
  fi
  rm -f "$state/id"
  # The traceback that ends it is long; the lines that name an error say more.
  { grep -E '[Ee]rror: |[Kk]illed|[Dd]enied' <<<"$text" || cat <<<"$text"; } | tail -n 8 | cut -c1-300 | sed 's/^/  | /' >&2
  fail "vLLM did not start: $(mend "$text") (its whole log: $PWD/$state/log)"
}

mend() {
  says() { grep -qiE -- "$1" <<<"$text"; }
  local text=$1 model=${setting[model]}
  if says 'address already in use|port is already allocated'; then
    echo "port $port is taken; set PORT to a free one"
  elif says 'driver.*(too old|insufficient)|unsatisfied condition: cuda'; then
    echo "the NVIDIA driver is too old for vLLM $version; update it to $min_driver or newer"
  elif says 'could not select device driver|no cuda gpus|no cuda-capable|failed to infer device|nvml.*not found'; then
    echo "it finds no GPU; make nvidia-smi work, for Docker install nvidia-container-toolkit, or take --cpu"
  elif says 'gatedrepo|gated repo|40[13] client error|access to model .* is restricted'; then
    echo "$model is gated, or HF_TOKEN wrong; accept its licence at https://huggingface.co/$model and export HF_TOKEN"
  elif says 'derived max_model_len'; then
    echo "the model's context is shorter; lower MAX_MODEL_LEN"
  elif says 'out of ?memory|free memory on device|no available memory|available kv cache|cannot allocate memory'; then
    if [[ $mode == cpu ]]; then
      echo "out of memory; change VLLM_CPU_KVCACHE_SPACE (GiB), or lower MAX_MODEL_LEN"
    else
      echo "out of GPU memory; lower GPU_MEMORY_UTIL or MAX_MODEL_LEN, or take another profile"
    fi
  elif says 'no space left on device'; then
    echo "the disk is full; make room"
  elif says 'unrecognized arguments|error: argument|invalid choice'; then
    echo "it does not take an option given after --"
  else
    echo "no usual failure, see above; if its log breaks off, the system may have ended it for want of memory"
  fi
}

# What the server says of itself.
report() {
  local models info scheduler='' cache text='' key
  models=$(get /v1/models) || fail "$url/v1/models does not answer; does it need VLLM_API_KEY?"
  info=$(get '/server_info?config_format=json') || info='' # only in development mode
  [[ ! $info =~ \"scheduler_config\":\ *(\{[^}]*\}) ]] || scheduler=${BASH_REMATCH[1]}
  cache=$(get /metrics | grep '^vllm:cache_config_info{') || cache=''
  echo "vLLM $(json "$(get /version)" version) is ready at $url"
  echo "  model      $(json "$models" id), max_model_len $(json "$models" max_model_len)"
  [[ -n $scheduler ]] || text=", told only in development mode"
  for key in policy max_num_seqs max_num_batched_tokens enable_chunked_prefill async_scheduling; do
    [[ -z $scheduler ]] || text+=", $key $(json "$scheduler" "$key")"
  done
  echo "  scheduler  ${text:2}"
  echo "  KV cache   $(label "$cache" num_gpu_blocks) blocks of $(label "$cache" block_size) tokens," \
    "enable_prefix_caching $(label "$cache" enable_prefix_caching)"
  echo "  stop it    ./setup_vllm.sh --stop"
  echo "next: workspan live check --server $url"
}

# The first value of that key in a JSON text, and of that label of a metric.
json() {
  [[ $1 =~ \"$2\":\ *(\"([^\"]*)\"|[^,}]*) ]] || { echo unknown; return; }
  echo "${BASH_REMATCH[2]:-${BASH_REMATCH[1]}}"
}
label() {
  [[ $1 =~ [{,]$2=\"([^\"]*)\" ]] || { echo unknown; return; }
  echo "${BASH_REMATCH[1]}"
}

stop_docker() {
  local id
  id=$(noted id)
  ((dry)) || docker logs "$id" >"$state/log" 2>&1 || true
  run docker stop --time 30 "$id"
  run docker rm "$id"
}

stop_venv() {
  local id tenths=300
  id=$(noted id) url=$(noted url)
  healthy || tenths=20 # while it starts, vLLM does not listen to signals
  run kill -TERM "$id"
  ((!dry)) || return 0
  for ((; tenths > 0; tenths--)); do kill -0 -- "-$id" 2>/dev/null || return 0; sleep 0.1; done
  ! kill -KILL -- "-$id" 2>/dev/null || say "it did not end by itself, and was killed"
}
