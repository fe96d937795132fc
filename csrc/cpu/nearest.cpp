// The k best columns of every row, collected tile by tile. Parallel axis: tiles. Bytes: 2 * 192 * depth * 4 per tile.
//
// A row keeps up to `capacity` candidates above its threshold, the k-th best score it knows. Thresholds only rise, so
// what they turn away is never among the k best: the answer does not depend on the order in which tiles arrive.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <memory>
#include <mutex>
#include <vector>

#include "candidates.h"
#include "parallel.h"
#include "row_ops.h"
#include "tile_grid.h"
#include "tiles.h"

namespace repsim {
namespace {

struct Found {
  int32_t row;
  uint64_t key;
};

// Adds the candidates of one stripe of 192 rows; the caller holds the stripe's lock.
void offer(const Candidates& all, int64_t first_row, const std::vector<Found>& found, int64_t k) {
  constexpr size_t kAhead = 8;
  const auto keep_largest = cpu::row_ops().keep_largest;
  for (size_t at = 0; at < found.size(); ++at) {
    if (at + kAhead < found.size()) {  // lists are long and lie apart: the next ones are fetched meanwhile
      const int64_t next = first_row + found[at + kAhead].row;
      __builtin_prefetch(all.keys + next * all.capacity + all.counts[next], 1);
    }
    const Found& one = found[at];
    const int64_t row = first_row + one.row;
    float& threshold = all.thresholds[row];
    if (key_score(one.key) < threshold) continue;  // it has risen since the tile was scanned
    uint64_t* keys = all.keys + row * all.capacity;
    int32_t& count = all.counts[row];
    keys[count++] = one.key;
    if (count == all.capacity || (count == k && threshold == -FLT_MAX)) {
      float risen = key_score(keep_largest(keys, count, k));
      count = static_cast<int32_t>(k);
      __atomic_store(&threshold, &risen, __ATOMIC_RELAXED);  // other threads read it without the lock
    }
  }
}

void read_thresholds(const float* from, int64_t valid, float* to) {
  for (int64_t i = 0; i < valid; ++i) __atomic_load(from + i, to + i, __ATOMIC_RELAXED);
  std::fill(to + valid, to + kTile, FLT_MAX);
}

struct Workspace {
  cpu::TileBuffer scores{kTile * kTile};
  cpu::Hits hits;
  std::vector<Found> for_rows, for_columns;
  alignas(64) float half_i[kTile], half_j[kTile], threshold_i[kTile], threshold_j[kTile];
};

}  // namespace

void nearest(const SearchPair& pair, Metric metric, const BlockRange& range, bool symmetric, int64_t k,
             const Candidates& candidates, int threads) {
  const cpu::TileOps& ops = cpu::tile_ops();
  const bool triangle = symmetric && range.first_i == range.first_j;
  const cpu::TileGrid grid(range, triangle);
  const int64_t last_row = std::max(range.first_i + range.rows_i, symmetric ? range.first_j + range.rows_j : 0);
  std::vector<std::mutex> stripes(last_row / kTile + 1);

  auto work = [&](int64_t number, std::unique_ptr<Workspace>& own) {
    const cpu::Tile tile = grid.at(number);
    const int64_t first_i = range.first_i + tile.i, first_j = range.first_j + tile.j;
    float* c = own->scores.data();
    cpu::scores(ops, pair, metric, tile, symmetric, own->half_i, own->half_j, c);

    // A diagonal tile holds both (i, j) and (j, i): its rows alone see every pair.
    const bool serves_columns = symmetric && !tile.diagonal;
    read_thresholds(candidates.thresholds + first_i, tile.rows, own->threshold_i);
    read_thresholds(candidates.thresholds + first_j, serves_columns ? tile.columns : 0, own->threshold_j);
    ops.select(c, own->threshold_i, own->threshold_j, own->hits);
    own->for_rows.clear();
    own->for_columns.clear();
    for (int32_t h = 0, row = 0; row < kTile; ++row)
      for (; h < own->hits.ends[row]; ++h) {
        const int32_t column = own->hits.columns[h];
        const float score = own->hits.scores[h];
        if (score >= own->threshold_i[row]) own->for_rows.push_back({row, make_key(score, first_j + column)});
        if (serves_columns && score >= own->threshold_j[column])
          own->for_columns.push_back({column, make_key(score, first_i + row)});
      }
    if (!own->for_rows.empty()) {
      std::lock_guard lock(stripes[first_i / kTile]);
      offer(candidates, first_i, own->for_rows, k);
    }
    if (!own->for_columns.empty()) {
      std::lock_guard lock(stripes[first_j / kTile]);
      offer(candidates, first_j, own->for_columns, k);
    }
  };
  cpu::parallel(grid.count(), threads, [] { return std::make_unique<Workspace>(); }, work);
}

}  // namespace repsim
