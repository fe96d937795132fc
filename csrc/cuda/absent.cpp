// The CUDA symbols of a build without CUDA: the same names, one clear error.
#include "../ops.h"

namespace repsim::cuda {

bool available() { return false; }

void kernel_sums(const KernelMatrix*, int64_t, int64_t, const BlockRange&, int64_t, int, int64_t*, int64_t*, void*) {
  throw Absent();
}

void nearest(const SearchPair&, Metric, const BlockRange&, bool, int64_t, const Candidates&, void*) { throw Absent(); }

}  // namespace repsim::cuda
