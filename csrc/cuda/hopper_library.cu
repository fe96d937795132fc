// The operations of hopper.h as plain C, for a library of its own that is loaded where there is a Hopper GPU. Every
// function returns null, or what went wrong.
#include <exception>
#include <string>

#include "hopper_launch.h"

namespace {

using namespace repsim::cuda::hopper;
using repsim::BlockRange;
using repsim::cuda::Candidates;

template <class Work>
const char* guarded(Work work) {
  static thread_local std::string message;
  try {
    work();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace

#define REPSIM_EXPORT extern "C" __attribute__((visibility("default")))

// sizes: of SplitRows, FusedKernel, BlockRange, Search, Served and Candidates, for whoever mirrors them.
REPSIM_EXPORT void repsim_hopper_sizes(int64_t* sizes) {
  const int64_t own[6] = {sizeof(SplitRows), sizeof(FusedKernel), sizeof(BlockRange),
                          sizeof(Search),    sizeof(Served),      sizeof(Candidates)};
  for (int m = 0; m < 6; ++m) sizes[m] = own[m];
}

// For the calls of this thread that follow: a library with a runtime of its own does not know what others have set.
REPSIM_EXPORT const char* repsim_hopper_set_device(int number) {
  return guarded([&] { check(cudaSetDevice(number), "set_device"); });
}

REPSIM_EXPORT const char* repsim_hopper_split_rows(const float* x, int64_t rows, int64_t depth, int64_t x_stride,
                                                   int precision, uint16_t* parts, int64_t row_stride, float* half,
                                                   float* residuals, void* stream) {
  return guarded([&] {
    split_rows(x, rows, depth, x_stride, static_cast<Precision>(precision), parts, row_stride, half, residuals, stream);
  });
}

REPSIM_EXPORT const char* repsim_hopper_kernel_sums(const FusedKernel* matrices, int precision, const BlockRange* range,
                                                    int64_t n, int row_bits, int64_t* row_sums,
                                                    int64_t* const* products, void* stream) {
  return guarded([&] {
    kernel_sums(matrices, static_cast<Precision>(precision), *range, n, row_bits, row_sums, products, stream);
  });
}

REPSIM_EXPORT const char* repsim_hopper_collect(const Search* search, const Served* served,
                                                const Candidates* candidates, void* stream) {
  return guarded([&] { collect(*search, *served, *candidates, stream); });
}

REPSIM_EXPORT const char* repsim_hopper_search_rows(const Search* search, const Served* served, int64_t kept,
                                                    int certain, const Candidates* candidates, uint8_t* overflowed,
                                                    void* stream) {
  return guarded([&] { search_rows(*search, *served, kept, certain != 0, *candidates, overflowed, stream); });
}

REPSIM_EXPORT const char* repsim_hopper_search_all_pairs(const Search* search, int64_t kept, int64_t sampled,
                                                         const Candidates* candidates, uint8_t* overflowed,
                                                         void* stream) {
  return guarded([&] { search_all_pairs(*search, kept, sampled, *candidates, overflowed, stream); });
}
