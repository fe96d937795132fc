// What a library compiled by nvcc calls of the CUDA runtime, on a machine without one: kernels are found as PTX in the
// library itself and executed by machine.h, at once, in the memory of the host. Link it in the place of cudart.
//
//   REPSIM_PTX_SEED       which of the orders of warps and copies a launch has; 0 where it is not set
//   REPSIM_PTX_CLUSTERS   how many clusters are resident at a time; 3 where it is not set
//   REPSIM_PTX_COVERAGE   a file to which every kernel's share of executed instructions is appended at the end
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>

#include "machine.h"

namespace {

using namespace repsim::ptx;

struct Loaded {
  std::shared_ptr<const Kernel> kernel;
  std::vector<uint64_t> executed;
};

// All that the process has registered. Made when it is first asked for, before the static objects that ask.
class Registry {
 public:
  static Registry& instance() {
    static Registry* only = new Registry;
    return *only;
  }

  void add_text(const std::string& text) {
    for (auto& [name, kernel] : parse(text)) {
      auto& loaded = by_name_[name];
      loaded.executed.assign(kernel->code.size(), 0);
      loaded.kernel = std::move(kernel);
    }
  }
  void add_function(const void* host, const std::string& name) { names_[host] = name; }

  Loaded& of(const void* host) {
    const auto name = names_.find(host);
    if (name == names_.end()) throw std::runtime_error("[ptx] a kernel that was not registered");
    return named(name->second);
  }
  Loaded& named(const std::string& name) {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) throw std::runtime_error("[ptx] no text of " + name);
    return found->second;
  }

  void write_coverage(const char* path) const {
    std::ofstream file(path, std::ios::app);
    for (const auto& [name, loaded] : by_name_) {
      size_t executed = 0;
      std::string missed;
      for (size_t m = 0; m < loaded.executed.size(); ++m)
        if (loaded.executed[m])
          ++executed;
        else
          missed += ' ' + std::to_string(loaded.kernel->code[m].line);
      if (executed) file << name << '\t' << executed << '\t' << loaded.executed.size() << '\t' << missed << '\n';
    }
  }

 private:
  std::unordered_map<const void*, std::string> names_;
  std::map<std::string, Loaded> by_name_;
};

uint64_t setting(const char* name, uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value ? std::strtoull(value, nullptr, 10) : otherwise;
}

thread_local std::string message;
thread_local cudaError_t last_error = cudaSuccess;

cudaError_t failed(const std::string& what) {
  message = what;
  return last_error = cudaErrorLaunchFailure;
}

struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};
thread_local std::vector<Configuration> configurations;

template <class Find>
cudaError_t launch(Find find, dim3 grid, dim3 block, void** arguments, size_t shared, unsigned cluster) {
  try {
    Loaded& loaded = find();
    const Kernel& kernel = *loaded.kernel;
    if (grid.y * grid.z * block.y * block.z != 1) throw std::runtime_error("[ptx] expected grids of one dimension");
    std::vector<uint64_t> room(kernel.parameter_bytes / 8 + 9);
    auto* parameters = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(room.data()) + 63) / 64 * 64);
    for (size_t m = 0; m < kernel.parameters.size(); ++m)
      std::memcpy(parameters + kernel.parameters[m].at, arguments[m], kernel.parameters[m].bytes);
    execute(
        {&kernel, grid.x, block.x, cluster, shared, parameters, setting("REPSIM_PTX_SEED", 0), loaded.executed.data()});
    return cudaSuccess;
  } catch (const std::exception& error) {
    return failed(error.what());
  }
}

CUresult encode(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* data, const cuuint64_t* sizes,
                const cuuint64_t* strides, const cuuint32_t* box, const cuuint32_t* steps,
                CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                CUtensorMapFloatOOBfill fill) {
  TensorMap made{TensorMap::kMagic, static_cast<const unsigned char*>(data), rank, 2, 128, {}, {}, {}};
  if (type != CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
      swizzle != CU_TENSOR_MAP_SWIZZLE_128B || fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE || rank < 3 || rank > 5)
    return CUDA_ERROR_NOT_SUPPORTED;
  // What the driver's manual asks of the arguments.
  if (reinterpret_cast<uintptr_t>(map) % 64 || reinterpret_cast<uintptr_t>(data) % 16) return CUDA_ERROR_INVALID_VALUE;
  for (cuuint32_t d = 0; d < rank; ++d) {
    if (sizes[d] == 0 || sizes[d] > 1ull << 32 || box[d] == 0 || box[d] > 256 || steps[d] != 1)
      return CUDA_ERROR_INVALID_VALUE;
    made.sizes[d] = sizes[d];
    made.box[d] = box[d];
    if (d == 0) continue;
    if (strides[d - 1] % 16 || strides[d - 1] >= 1ull << 40) return CUDA_ERROR_INVALID_VALUE;
    made.strides[d - 1] = strides[d - 1];
  }
  if (box[0] * 2 > 128 || box[0] * 2 % 16) return CUDA_ERROR_INVALID_VALUE;
  std::memset(map, 0, sizeof *map);
  std::memcpy(map, &made, sizeof made);
  return CUDA_SUCCESS;
}

// The texts in a fat binary that was not compressed: each ends in a 0.
void add_texts(const unsigned char* binary) {
  uint64_t size;
  uint16_t header;
  std::memcpy(&header, binary + 6, 2);
  std::memcpy(&size, binary + 8, 8);
  const std::string all(reinterpret_cast<const char*>(binary), header + size);
  const std::string begin = ".version ";
  for (size_t at = all.find(begin); at != std::string::npos; at = all.find(begin, at + 1))
    Registry::instance().add_text(all.substr(at, all.find('\0', at) - at));
}

struct AtEnd {
  ~AtEnd() {
    if (const char* path = std::getenv("REPSIM_PTX_COVERAGE")) Registry::instance().write_coverage(path);
  }
} at_end;

}  // namespace

extern "C" {

// Global memory that kernels may touch from now on, besides what was named before; 0 bytes: forget all.
__attribute__((visibility("default"))) void repsim_ptx_allow(uint64_t begin, uint64_t bytes) {
  if (bytes == 0) return allowed().clear();
  allowed().push_back({begin, begin + bytes});
}

// Takes the kernels of a text in the place of those of the same names. Null, or what is wrong with it.
__attribute__((visibility("default"))) const char* repsim_ptx_load(const char* text) {
  try {
    Registry::instance().add_text(text);
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

// Runs a kernel of a text that was loaded, by its name. Null, or what went wrong.
__attribute__((visibility("default"))) const char* repsim_ptx_run(const char* name, unsigned blocks, unsigned threads,
                                                                  unsigned cluster, uint64_t shared, void** arguments) {
  const auto find = [&]() -> Loaded& { return Registry::instance().named(name); };
  if (launch(find, dim3(blocks), dim3(threads), arguments, shared, cluster) == cudaSuccess) return nullptr;
  last_error = cudaSuccess;
  return message.c_str();
}

void** __cudaRegisterFatBinary(void* wrapper) {
  struct {
    int magic, version;
    const unsigned char* data;
    void* more;
  } its;
  std::memcpy(&its, wrapper, sizeof its);
  try {
    add_texts(its.data);
  } catch (const std::exception& error) {
    failed(error.what());
    std::fprintf(stderr, "%s\n", error.what());
  }
  return static_cast<void**>(wrapper);
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }

void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  Registry::instance().add_function(host, name);
}

void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  const Configuration last = configurations.back();
  configurations.pop_back();
  *grid = last.grid;
  *block = last.block;
  *shared = last.shared;
  std::memcpy(stream, &last.stream, sizeof last.stream);
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t) {
  return launch([&]() -> Loaded& { return Registry::instance().of(kernel); }, grid, block, arguments, shared, 1);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  unsigned cluster = 1;
  for (unsigned m = 0; m < config->numAttrs; ++m)
    if (config->attrs[m].id == cudaLaunchAttributeClusterDimension) cluster = config->attrs[m].val.clusterDim.x;
  return launch([&]() -> Loaded& { return Registry::instance().of(function); }, config->gridDim, config->blockDim,
                arguments, config->dynamicSmemBytes, cluster);
}
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void*, const cudaLaunchConfig_t*) {
  *clusters = static_cast<int>(setting("REPSIM_PTX_CLUSTERS", 3));
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int bytes) {
  return bytes <= 227 * 1024 ? cudaSuccess : last_error = cudaErrorInvalidValue;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** entry, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  const bool known = std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  *entry = known ? reinterpret_cast<void*>(&encode) : nullptr;
  if (found) *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? message.c_str() : error == cudaSuccess ? "no error" : "invalid value";
}

}  // extern "C"
