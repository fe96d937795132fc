#include <cudaTypedefs.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "hopper_launch.h"

namespace repsim::cuda::hopper {

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // whoever asks next would find it otherwise
  throw std::runtime_error(std::string("[") + what + "] CUDA: " + cudaGetErrorString(error));
}

namespace {

// Taken from the driver at run time: nothing links to it.
PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
  static const auto encoder = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found{};
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found),
          "tensor_map");
    if (found != cudaDriverEntryPointSuccess || !entry)
      throw std::runtime_error("[tensor_map] expected a driver of CUDA 12 or later, got one without tensor maps");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry);
  }();
  return encoder;
}

}  // namespace

void encode_tensor_map(CUtensorMap& map, const SplitRows& rows, int parts, int box_rows) {
  if (reinterpret_cast<uintptr_t>(rows.parts) % 16 || rows.row_stride % 8 || rows.part_stride % 8 ||
      rows.row_stride < rows.depth || rows.part_stride < 1 || rows.depth < 1 || rows.rows < 1)
    throw std::invalid_argument("[tensor_map] expected parts and strides in multiples of 16 bytes");
  const BoxForm form = box_form(rows, parts, box_rows);
  const cuuint32_t steps[3] = {1, 1, 1};
  const CUresult result =
      tensor_map_encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<uint16_t*>(rows.parts), form.sizes,
                           form.strides, form.box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                           CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw std::runtime_error("[tensor_map] CUDA driver: error " + std::to_string(static_cast<int>(result)));
}

Schedule schedule(int64_t rows, int64_t columns, int tile_rows, int tile_columns, bool triangle, int tiles) {
  constexpr int64_t kMostRows = int64_t{1} << 30;
  if (rows < 1 || columns < 1 || rows > kMostRows || columns > kMostRows)
    throw std::invalid_argument("[schedule] expected blocks of 1 to 2^30 rows");
  const int step = std::lcm(tile_rows, tile_columns), in_step = step / tile_rows * (step / tile_columns);
  int side = step;
  while ((side / step + 1) * (side / step + 1) * in_step <= tiles) side += step;
  return schedule_of(static_cast<int>(rows), static_cast<int>(columns), tile_rows, tile_columns, side, triangle);
}

namespace {

cudaLaunchConfig_t configuration(cudaLaunchAttribute& attribute, int blocks, int cluster, int threads, int shared_bytes,
                                 void* stream) {
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &attribute;
  config.numAttrs = 1;
  return config;
}

}  // namespace

int resident_clusters(const void* kernel, int cluster, int threads, int shared_bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), "shared memory");
  cudaLaunchAttribute attribute;
  const cudaLaunchConfig_t config = configuration(attribute, cluster, cluster, threads, shared_bytes, nullptr);
  int clusters = 0;
  check(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config), "resident clusters");
  if (clusters < 1) throw std::runtime_error("[resident clusters] expected room for one cluster of the kernel");
  return clusters;
}

void launch(const void* kernel, int cluster, int threads, int shared_bytes, void* parameters, void* stream,
            const char* name) {
  const int clusters = resident_clusters(kernel, cluster, threads, shared_bytes);
  cudaLaunchAttribute attribute;
  const cudaLaunchConfig_t config =
      configuration(attribute, clusters * cluster, cluster, threads, shared_bytes, stream);
  void* arguments[] = {parameters};
  check(cudaLaunchKernelExC(&config, kernel, arguments), name);
}

}  // namespace repsim::cuda::hopper
