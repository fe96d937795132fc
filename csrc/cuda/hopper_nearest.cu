// Candidates of a search, fused: scores stay in registers, and only those that their row or column asks for are
// written. Parallel axis: tiles of 128 x N pairs. Bytes: (128 + N) d 2 per tile and product, out of L2, shared by a
// cluster, and 8 for each candidate.
#include <algorithm>

#include "hopper_launch.h"
#include "hopper_mainloop.h"
#include "hopper_shapes.h"

namespace repsim::cuda::hopper {
namespace {

struct SelectArguments {
  CUtensorMap left, right;
  Schedule schedule;
  Products products;
  int depth;
  const float* half_i;
  const float* half_j;
  int64_t half_stride_i, half_stride_j;
  const uint64_t* floors;
  Served served;
  Candidates candidates;
};

template <class Shape>
struct SelectStorage {
  Ring<Shape> ring;
  SelectShared<Shape::kColumns> tiles[2];
  WarpWalk walks[kMultiplierWarps + 1];  // and of the loader
};

// What one thread brings of a tile's halves and thresholds, read while products are summed.
template <int kColumns>
struct Asked {
  static constexpr int kShare = ceiling(kColumns, kGroupThreads);
  float half_i, threshold_i, half_j[kShare], threshold_j[kShare];

  __device__ void fetch(const SelectArguments& a, int row, int column, int thread) {
    const bool columns_too = a.served.triangle || a.served.columns_too;
    row += thread % kGroupRows;
    const bool exists = row < a.schedule.rows;
    half_i = !exists ? INFINITY : a.half_i ? a.half_i[row * a.half_stride_i] : 0.0f;
    threshold_i = exists ? key_score(a.floors[a.served.first_i + row]) : INFINITY;
#pragma unroll
    for (int m = 0; m < kShare; ++m) {
      const int at = column + m * kGroupThreads + thread;
      const bool there = at < a.schedule.columns;
      half_j[m] = !there ? INFINITY : a.half_j ? a.half_j[at * a.half_stride_j] : 0.0f;
      threshold_j[m] = there && columns_too ? key_score(a.floors[a.served.index_j + at]) : INFINITY;
    }
  }

  __device__ void store(SelectShared<kColumns>& shared, int thread) const {
    if (thread < kGroupRows) {
      shared.half_i[thread] = half_i;
      shared.threshold_i[thread] = threshold_i;
    }
#pragma unroll
    for (int m = 0; m < kShare; ++m) {
      const int at = m * kGroupThreads + thread;
      if (kColumns % kGroupThreads != 0 && at >= kColumns) break;
      shared.half_j[at] = half_j[m];
      shared.threshold_j[at] = threshold_j[m];
    }
  }
};

template <class Shape>
__global__ void __launch_bounds__(kThreads, 1) select_kernel(const __grid_constant__ SelectArguments a) {
  extern __shared__ __align__(1024) uint8_t raw[];
  auto& shared = storage_in<SelectStorage<Shape>>(raw);
  const auto place = place_in_cluster<Shape>();
  open_ring(shared.ring);
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  const int cluster = static_cast<int>(blockIdx.x) / Shape::kCluster;
  const int clusters = static_cast<int>(gridDim.x) / Shape::kCluster;

  if (group == 0) {
    WarpWalk& walk = shared.walks[kMultiplierWarps];
    load_tiles<Shape>(shared.ring, place, walk, a.schedule, cluster, clusters, [&](Loader<Shape>& loader) {
      loader.load(&a.left, &a.right, a.products, a.depth, walk.row, walk.column);
    });
  } else {
    cutlass::arch::warpgroup_reg_alloc<kMultiplierRegisters>();
    const int thread = static_cast<int>(threadIdx.x) - kGroupThreads;
    DeviceLane lane{thread % kGroupThreads, group - 1};
    auto& own = shared.tiles[group - 1];
    WarpWalk& walk = shared.walks[thread / 32];
    if (lane.lane() == 0) walk.at = Walk::start(cluster);
    Multiplier<Shape> multiplier(shared.ring, place, thread);
    typename Multiplier<Shape>::Accumulators t;
    const int steps = a.products.count * ((a.depth + Shape::kDepth - 1) / Shape::kDepth);
    const int down = place.row * Shape::kRows + (group - 1) * kGroupRows, across = place.column * Shape::kColumns;
    while (next_tile(walk, a.schedule, clusters, lane.lane())) {
      const int row = walk.row + down, column = walk.column + across;
      Asked<Shape::kColumns> asked;
      asked.fetch(a, row, column, lane.thread());
      multiplier.issue(t, true);
#pragma unroll 1
      for (int step = 1; step < steps; ++step) {
        multiplier.issue(t, false);
        multiplier.template settle<1>();
      }
      multiplier.template settle<0>();
      multiplier.ready(t);
      lane.meet();  // the last tile's are no longer read
      asked.store(own, lane.thread());
      lane.meet();
      const Offers offers{a.candidates.keys,
                          a.candidates.counts,
                          a.candidates.capacity,
                          a.served.first_i + row,
                          a.served.index_j + column,
                          a.served.index_j + a.served.step_j * column,
                          a.served.step_j,
                          a.served.inputs_i ? a.served.inputs_i + row : nullptr,
                          a.served.triangle || a.served.columns_too,
                          a.served.own,
                          a.served.triangle};
      select_tile<Shape::kColumns>(t, own, offers, lane);
    }
    __syncwarp();
    leave<Shape>();
  }
}

constexpr int kPruneThreads = 128;

struct PruneBlock {
  __device__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ int threads() const { return kPruneThreads; }
  __device__ void meet() const { __syncthreads(); }
};

__global__ void __launch_bounds__(kPruneThreads)
    prune_kernel(int kept, const __grid_constant__ Candidates candidates, uint8_t* overflowed) {
  __shared__ uint64_t keys[kMostCapacity];
  const int64_t row = blockIdx.x;
  const int count = candidates.counts[row];
  if (count <= kept) return;
  PruneBlock block;
  if (count > candidates.capacity) {
    __syncthreads();  // all threads have read the count
    if (block.thread() == 0) {
      overflowed[row] = 1;
      candidates.counts[row] = 0;
    }
    return;
  }
  uint64_t* list = candidates.keys + row * candidates.capacity;
  int size = 1;
  while (size < count) size *= 2;
  for (int m = block.thread(); m < size; m += kPruneThreads) keys[m] = m < count ? list[m] : 0;
  sort_keys(keys, size, block);
  for (int m = block.thread(); m < kept; m += kPruneThreads) list[m] = keys[m];
  if (block.thread() == 0) {
    candidates.counts[row] = kept;
    candidates.floors[row] = keys[kept - 1];
  }
}

SplitRows part_of(const SplitRows& rows, int64_t first, int64_t count) {
  SplitRows part = rows;
  part.parts += first * rows.row_stride;
  if (part.half) part.half += first * rows.half_stride;
  part.rows = count;
  return part;
}

}  // namespace

void collect(const Search& search, const Served& served, const Candidates& candidates, void* stream) {
  using Shape = SelectShape;
  const SplitRows &i = search.i, &j = search.j;
  if (i.depth != j.depth || (i.half == nullptr) != (j.half == nullptr))
    throw std::invalid_argument("[collect] expected blocks of one depth, both with halves or both without");
  if (served.step_j != 1 && (served.triangle || served.columns_too))
    throw std::invalid_argument("[collect] expected columns one by one where they find rows too");
  if (served.triangle && (served.index_j != served.first_i || i.rows != j.rows))
    throw std::invalid_argument("[collect] expected the same rows on both sides of a triangle");
  SelectArguments a;
  a.products = products_of(search.precision);
  a.schedule = schedule(i.rows, j.rows, Shape::kClusterRows * Shape::kRows, Shape::kClusterColumns * Shape::kColumns,
                        served.triangle, kSelectSupertile);
  encode_tensor_map(a.left, i, a.products.parts, Shape::kLeftSlice);
  encode_tensor_map(a.right, j, a.products.parts, Shape::kRightSlice);
  a.depth = static_cast<int>(i.depth);
  a.half_i = i.half;
  a.half_j = j.half;
  a.half_stride_i = i.half_stride;
  a.half_stride_j = j.half_stride;
  a.floors = candidates.floors;
  a.served = served;
  a.candidates = candidates;
  constexpr int kBytes = sizeof(SelectStorage<Shape>);
  static_assert(kBytes <= 227 * 1024, "fits the shared memory of a block");
  launch(reinterpret_cast<const void*>(&select_kernel<Shape>), Shape::kCluster, kThreads, kBytes, &a, stream,
         "collect");
}

void prune(int64_t rows, int64_t kept, const Candidates& candidates, uint8_t* overflowed, void* stream) {
  if (candidates.capacity > kMostCapacity || kept < 1 || kept > candidates.capacity || rows > INT32_MAX)
    throw std::invalid_argument("[prune] expected 1 <= kept <= capacity <= 2048");
  if (rows == 0) return;
  prune_kernel<<<static_cast<unsigned>(rows), kPruneThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<int>(kept), candidates, overflowed);
  check(cudaGetLastError(), "prune");
}

void search_rows(const Search& search, const Served& served, int64_t kept, bool certain, const Candidates& candidates,
                 uint8_t* overflowed, void* stream) {
  const int64_t columns = search.j.rows, room = candidates.capacity - kept;
  if (room < kept) throw std::invalid_argument("[search_rows] expected a capacity of at least 2 kept");
  if (served.triangle || served.columns_too)
    throw std::invalid_argument("[search_rows] expected a search for the rows alone");
  // Rows are searched from served.first_i on; their lists may stand anywhere among others.
  Candidates lists = candidates;
  lists.keys += served.first_i * candidates.capacity;
  lists.counts += served.first_i;
  lists.floors += served.first_i;
  for (int64_t begin = 0; begin < columns;) {
    // A row finds about kept more for every doubling; a quarter of its room is left to chance.
    int64_t width = certain || begin == 0 ? room : std::max(room, begin / (4 * kept) * room);
    if (width > SelectShape::kColumns) width -= width % SelectShape::kColumns;
    width = std::min(width, columns - begin);
    Served part = served;
    part.index_j += served.step_j * begin;
    collect({search.i, part_of(search.j, begin, width), search.precision}, part, candidates, stream);
    prune(search.i.rows, kept, lists, overflowed + served.first_i, stream);
    begin += width;
  }
}

void search_all_pairs(const Search& search, int64_t kept, int64_t sampled, const Candidates& candidates,
                      uint8_t* overflowed, void* stream) {
  const SplitRows& rows = search.i;
  const int64_t n = rows.rows, step = std::max<int64_t>(n / std::max<int64_t>(sampled, 1), 1);
  SplitRows sample = rows;
  sample.rows = (n + step - 1) / step;
  sample.row_stride *= step;
  sample.half_stride *= step;
  search_rows({rows, sample, search.precision}, {0, 0, step, nullptr, false, false, true}, kept, false, candidates,
              overflowed, stream);
  const auto queue = static_cast<cudaStream_t>(stream);
  check(cudaMemsetAsync(candidates.counts, 0, n * sizeof(int32_t), queue), "search_all_pairs");
  check(cudaMemsetAsync(overflowed, 0, n, queue), "search_all_pairs");
  collect(search, {0, 0, 1, nullptr, true, true, true}, candidates, stream);
  prune(n, kept, candidates, overflowed, stream);
}

}  // namespace repsim::cuda::hopper
