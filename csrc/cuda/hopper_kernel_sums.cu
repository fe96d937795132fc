#include "hopper_kernel_sums.h"
#include "hopper_shapes.h"

namespace repsim::cuda::hopper {
namespace {

__global__ void end_limbs(int64_t* products) {
  if (threadIdx.x < 4) products[2 * threadIdx.x + 1] &= 0xffffffff;
}

}  // namespace

void kernel_sums(const FusedKernel (&matrices)[2], Precision precision, const BlockRange& range, int64_t n,
                 int row_bits, int64_t* row_sums, int64_t* products, void* stream) {
  launch_sums<SumsShape>(matrices, precision, range, n, row_bits, row_sums, products, kSumsSupertile, stream);
  end_limbs<<<1, 32, 0, static_cast<cudaStream_t>(stream)>>>(products);
  check(cudaGetLastError(), "kernel_sums");
}

}  // namespace repsim::cuda::hopper
