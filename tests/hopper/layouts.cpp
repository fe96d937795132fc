// What CuTe says of the places that the Hopper kernels count on: accumulators in registers, and tiles in shared memory.
// Host code; needs the CUTLASS and CUDA headers. Prints "same", or what differs.
#include <cstdio>
#include <cute/atom/mma_traits_sm90_gmma.hpp>
#include <cute/tensor.hpp>

#include "cuda/hopper_schedule.h"

using namespace repsim::cuda::hopper;

namespace {

// Of both warpgroups, as the kernels tile them: the second has the rows from 64 on.
template <int kColumns, class Atom>
int tile_of_two() {
  const auto mma = cute::make_tiled_mma(Atom{}, cute::Layout<cute::Shape<cute::_2, cute::_1, cute::_1>>{});
  const auto places = cute::make_identity_tensor(cute::Shape<cute::Int<128>, cute::Int<kColumns>>{});
  int wrong = 0;
  for (int thread = 0; thread < 256; ++thread) {
    const auto own = mma.get_thread_slice(thread).partition_C(places);
    for (int m = 0; m < kColumns / 2; ++m) {
      const auto place = own(m);
      wrong += static_cast<int>(cute::get<0>(place)) != thread / 128 * 64 + fragment_row(thread % 128, m) ||
               static_cast<int>(cute::get<1>(place)) != fragment_column(thread % 128, m);
    }
  }
  if (wrong) std::printf("%d accumulators of 128 x %d lie elsewhere\n", wrong, kColumns);
  return wrong;
}

template <int kColumns, class Atom>
int accumulators() {
  using Layout = typename cute::MMA_Traits<Atom>::CLayout;  // (thread, value) -> row + 64 column
  int wrong = 0;
  for (int thread = 0; thread < 128; ++thread)
    for (int m = 0; m < kColumns / 2; ++m)
      wrong += static_cast<int>(Layout{}(thread, m)) != fragment_row(thread, m) + 64 * fragment_column(thread, m);
  if (wrong) std::printf("%d accumulators of 64 x %d lie elsewhere\n", wrong, kColumns);
  return wrong;
}

// Where a bulk tensor copy with the 128 byte swizzle puts feature k of row r of stage s, in elements: 16-byte chunks of
// a row of 128 bytes are exchanged by the row's number.
int copied(int rows, int r, int k, int stage) { return (stage * rows + r) * 64 + ((k / 8) ^ (r % 8)) * 8 + k % 8; }

template <int kRows, int kStages>
int stages() {
  const auto layout = cute::as_position_independent_swizzle_layout(
      cute::tile_to_shape(cute::GMMA::Layout_K_SW128_Atom<cute::bfloat16_t>{},
                          cute::Shape<cute::Int<kRows>, cute::Int<64>, cute::Int<kStages>>{}));
  int wrong = 0;
  for (int stage = 0; stage < kStages; ++stage)
    for (int r = 0; r < kRows; ++r)
      for (int k = 0; k < 64; ++k) wrong += static_cast<int>(layout(r, k, stage)) != copied(kRows, r, k, stage);
  if (wrong) std::printf("%d features of %d rows lie elsewhere\n", wrong, kRows);
  return wrong;
}

}  // namespace

int main() {
  using namespace cute::SM90::GMMA;
  int wrong = accumulators<128, MMA_64x128x16_F32BF16BF16_SS<Major::K, Major::K>>();
  wrong += accumulators<192, MMA_64x192x16_F32BF16BF16_SS<Major::K, Major::K>>();
  wrong += accumulators<256, MMA_64x256x16_F32BF16BF16_SS<Major::K, Major::K>>();
  wrong += tile_of_two<192, MMA_64x192x16_F32BF16BF16_SS<Major::K, Major::K>>();
  wrong += tile_of_two<256, MMA_64x256x16_F32BF16BF16_SS<Major::K, Major::K>>();
  wrong += stages<128, 4>() + stages<192, 4>() + stages<256, 3>();
  if (!wrong) std::printf("same\n");
  return wrong != 0;
}
