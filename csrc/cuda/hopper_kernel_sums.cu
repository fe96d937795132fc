#include "hopper_kernel_sums.h"
#include "hopper_shapes.h"

namespace repsim::cuda::hopper {

void kernel_sums(const FusedKernel* matrices, Precision precision, const BlockRange& range, int64_t n, int row_bits,
                 int64_t* row_sums, int64_t* const* products, void* stream) {
  launch_sums<SumsShape>(matrices, precision, range, n, row_bits, row_sums, products, kSumsSupertile, stream);
}

}  // namespace repsim::cuda::hopper
