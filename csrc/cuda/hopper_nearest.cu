#include <algorithm>

#include "hopper_nearest.h"
#include "hopper_shapes.h"

namespace repsim::cuda::hopper {
namespace {

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
  launch_select<SelectShape>(search, served, candidates, kSelectSupertile, stream);
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
