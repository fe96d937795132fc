// Rows as sums of bfloat16 parts, with their halves. Parallel axis: rows, a warp each. Bytes: 4 + 2 parts per feature.
#include <cuda_runtime_api.h>

#include <cmath>
#include <stdexcept>

#include "hopper_launch.h"

namespace repsim::cuda::hopper {
namespace {

constexpr int kSplitThreads = 256;

__global__ void __launch_bounds__(kSplitThreads)
    split_kernel(const float* x, int64_t rows, int64_t depth, int64_t x_stride, int parts, uint16_t* out,
                 int64_t row_stride, float* half, float* residuals) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kSplitThreads / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  double square = 0.0, lost = 0.0;
  for (int64_t k = threadIdx.x % 32; k < row_stride; k += 32) {
    const float value = k < depth ? x[row * x_stride + k] : 0.0f;
    float rest = value;
    for (int part = 0; part < parts; ++part) out[(part * rows + row) * row_stride + k] = take_part(rest);
    const double taken = static_cast<double>(value) - rest;
    square += taken * taken;
    lost += static_cast<double>(rest) * rest;
  }
  for (int mask = 16; mask > 0; mask /= 2) {
    square += __shfl_xor_sync(~0u, square, mask);
    lost += __shfl_xor_sync(~0u, lost, mask);
  }
  if (threadIdx.x % 32 != 0) return;
  half[row] = static_cast<float>(0.5 * square);
  if (residuals) residuals[row] = __double2float_ru(sqrt(lost) * (1 + 0x1p-30));
}

}  // namespace

void split_rows(const float* x, int64_t rows, int64_t depth, int64_t x_stride, Precision precision, uint16_t* parts,
                int64_t row_stride, float* half, float* residuals, void* stream) {
  if (rows < 1 || depth < 1 || x_stride < depth || row_stride < depth || row_stride % 8 != 0)
    throw std::invalid_argument("[split_rows] expected rows, and strides of at least the depth and in multiples of 8");
  const int64_t blocks = (rows + kSplitThreads / 32 - 1) / (kSplitThreads / 32);
  if (blocks > INT32_MAX) throw std::invalid_argument("[split_rows] expected at most 2^34 rows");
  split_kernel<<<static_cast<unsigned>(blocks), kSplitThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      x, rows, depth, x_stride, products_of(precision).parts, parts, row_stride, half, residuals);
  check(cudaGetLastError(), "split_rows");
}

}  // namespace repsim::cuda::hopper
