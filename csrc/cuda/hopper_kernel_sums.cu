// sum_{i < j} of K, L, KK, KL and LL, fused: products of both matrices and their kernels stay in registers. Parallel
// axis: tiles of 128 x N pairs. Bytes: (128 + N) (d + d') 2 per tile and product, out of L2, shared by a cluster;
// nothing is written but sums.
#include "../fixed_point.h"
#include "hopper_launch.h"
#include "hopper_mainloop.h"
#include "hopper_shapes.h"

namespace repsim::cuda::hopper {
namespace {

struct SumsArguments {
  CUtensorMap left[2], right[2];
  Schedule schedule;
  Products products;
  int depth[2];
  KernelForm form[2];
  const float* half_i[2];
  const float* half_j[2];
  int64_t* rows_i;  // of the first row of block i
  int64_t* rows_j;
  int64_t n;
  float row_unit;
  int64_t* totals[3];  // of KK, KL and LL
};

template <class Shape>
struct SumsStorage {
  Ring<Shape> ring;
  SumsShared<Shape::kColumns> sums[2];
  int64_t limbs[kMultiplierWarps][3][2];  // of every consumer warp
  WarpWalk walks[kMultiplierWarps + 1];   // and of the loader
};

// One thread's share of the halves of a tile: fetched while products are summed, scaled in place when they are there.
template <int kColumns, class Use>
__device__ void for_own_halves(SumsShared<kColumns>& shared, int thread, Use use) {
  const int p = thread / kGroupRows, i = thread % kGroupRows;
  use(p, true, i, shared.half_i[p] + i);
#pragma unroll
  for (int m = 0; m < 2 * kColumns / kGroupThreads; ++m) {
    const int at = m * kGroupThreads + thread;
    use(at / kColumns, false, at % kColumns, shared.half_j[at / kColumns] + at % kColumns);
  }
}

template <int kColumns>
__device__ void fetch_halves(const SumsArguments& a, int row, int column, SumsShared<kColumns>& shared,
                             const DeviceLane& lane) {
  for_own_halves(shared, lane.thread(), [&](int p, bool of_row, int at, float* to) {
    at += of_row ? row : column;
    const float* halves = of_row ? a.half_i[p] : a.half_j[p];
    const bool exists = halves && at < (of_row ? a.schedule.rows : a.schedule.columns);
    lane.copy(to, halves + (exists ? at : 0), exists);
  });
}

template <int kColumns>
__device__ void scale_halves(const SumsArguments& a, SumsShared<kColumns>& shared, const DeviceLane& lane) {
  lane.copied();
  for_own_halves(shared, lane.thread(), [&](int p, bool, int, float* half) { *half *= a.form[p].half_scale(); });
  lane.meet();
}

template <class Shape>
__global__ void __launch_bounds__(kThreads, 1) sums_kernel(const __grid_constant__ SumsArguments a) {
  extern __shared__ __align__(1024) uint8_t raw[];
  auto& shared = storage_in<SumsStorage<Shape>>(raw);
  const auto place = place_in_cluster<Shape>();
  open_ring(shared.ring);
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  const int cluster = static_cast<int>(blockIdx.x) / Shape::kCluster;
  const int clusters = static_cast<int>(gridDim.x) / Shape::kCluster;

  if (group == 0) {
    WarpWalk& walk = shared.walks[kMultiplierWarps];
    load_tiles<Shape>(shared.ring, place, walk, a.schedule, cluster, clusters, [&](Loader<Shape>& loader) {
#pragma unroll 1
      for (int p = 0; p < 2; ++p) loader.load(&a.left[p], &a.right[p], a.products, a.depth[p], walk.row, walk.column);
    });
  } else {
    cutlass::arch::warpgroup_reg_alloc<kMultiplierRegisters>();
    const int thread = static_cast<int>(threadIdx.x) - kGroupThreads;
    DeviceLane lane{thread % kGroupThreads, group - 1};
    auto& own = shared.sums[group - 1];
    int64_t (*limbs)[2] = shared.limbs[thread / 32];
    WarpWalk& walk = shared.walks[thread / 32];
    if (lane.lane() == 0) walk.at = Walk::start(cluster);
    if (lane.lane() < 6) limbs[lane.lane() / 2][lane.lane() % 2] = 0;

    Multiplier<Shape> multiplier(shared.ring, place, thread);
    typename Multiplier<Shape>::Accumulators k, l;
    const int steps_k = a.products.count * ((a.depth[0] + Shape::kDepth - 1) / Shape::kDepth);
    const int steps_l = a.products.count * ((a.depth[1] + Shape::kDepth - 1) / Shape::kDepth);
    const int down = place.row * Shape::kRows + (group - 1) * kGroupRows, across = place.column * Shape::kColumns;
    while (next_tile(walk, a.schedule, clusters, lane.lane())) {
      fetch_halves(a, walk.row + down, walk.column + across, own, lane);
      multiplier.issue(k, true);
#pragma unroll 1
      for (int step = 1; step < steps_k; ++step) {
        multiplier.issue(k, false);
        multiplier.template settle<1>();
      }
      multiplier.issue(l, true);
      multiplier.template settle<1>();
      // K is there; its kernel is taken while the first products of L are on their way.
      scale_halves(a, own, lane);
      multiplier.ready(k);
      to_kernel<Shape::kColumns>(k, a.form[0], own.half_i[0], own.half_j[0], lane);
#pragma unroll 1
      for (int step = 1; step < steps_l; ++step) {
        multiplier.issue(l, false);
        multiplier.template settle<1>();
      }
      multiplier.template settle<0>();
      multiplier.ready(l);
      to_kernel<Shape::kColumns>(l, a.form[1], own.half_i[1], own.half_j[1], lane);

      const int row = walk.row + down, column = walk.column + across;
      const SumsTotals totals{a.rows_i + row, a.rows_j + column, a.n, a.row_unit, limbs};
      const TileBounds bounds = tile_bounds(a.schedule, row, column, lane.thread());
      if (!whole<Shape::kColumns>(a.schedule, row, column)) {
        mask_tile<Shape::kColumns>(k, bounds, lane);
        mask_tile<Shape::kColumns>(l, bounds, lane);
      }
      add_tile<Shape::kColumns>(k, l, bounds, own, totals, lane);
    }
    __syncwarp();
    if (lane.lane() < 3) {
      int64_t* total = lane.lane() == 0 ? a.totals[0] : lane.lane() == 1 ? a.totals[1] : a.totals[2];
      const auto add = [](int64_t* to, int64_t term) {
        return static_cast<int64_t>(
            atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(term)));
      };
      add(total, limbs[lane.lane()][0]);
      add_to_limbs(total, limbs[lane.lane()][1], add);
    }
    __syncwarp();
    leave<Shape>();
  }
}

}  // namespace

void kernel_sums(const FusedKernel* matrices, Precision precision, const BlockRange& range, int64_t n, int row_bits,
                 int64_t* row_sums, int64_t* const* products, void* stream) {
  using Shape = SumsShape;
  const bool triangle = range.first_i == range.first_j;
  SumsArguments a;
  a.products = products_of(precision);
  a.schedule = schedule(range.rows_i, range.rows_j, Shape::kClusterRows * Shape::kRows,
                        Shape::kClusterColumns * Shape::kColumns, triangle, kSumsSupertile);
  for (int p = 0; p < 2; ++p) {
    const FusedKernel& m = matrices[p];
    if (m.kernel != Kernel::rbf && m.kernel != Kernel::linear && m.kernel != Kernel::polynomial)
      throw std::invalid_argument("[kernel_sums] expected kernels rbf, linear or polynomial on the fused path");
    if (m.kernel == Kernel::polynomial && (m.degree < 0 || m.degree > kMostDegree || !m.i.half || !m.j.half))
      throw std::invalid_argument("[kernel_sums] expected a polynomial of a degree of at most 4, and halves");
    if (m.i.rows != range.rows_i || m.j.rows != range.rows_j || m.i.depth != m.j.depth)
      throw std::invalid_argument("[kernel_sums] expected blocks of the range's rows and of one depth");
    encode_tensor_map(a.left[p], m.i, a.products.parts, Shape::kLeftSlice);
    encode_tensor_map(a.right[p], m.j, a.products.parts, Shape::kRightSlice);
    a.depth[p] = static_cast<int>(m.i.depth);
    a.form[p] = kernel_form(m.kernel, m.gain, m.shift, m.coefficients, m.degree);
    a.half_i[p] = m.i.half;
    a.half_j[p] = m.j.half;
  }
  a.rows_i = row_sums + range.first_i;
  a.rows_j = row_sums + range.first_j;
  a.n = n;
  a.row_unit = static_cast<float>(int64_t{1} << row_bits);
  for (int p = 0; p < 3; ++p) a.totals[p] = products[p];
  constexpr int kBytes = sizeof(SumsStorage<Shape>);
  static_assert(kBytes <= 227 * 1024, "fits the shared memory of a block");
  launch(reinterpret_cast<const void*>(&sums_kernel<Shape>), Shape::kCluster, kThreads, kBytes, &a, stream,
         "kernel_sums");
}

}  // namespace repsim::cuda::hopper
