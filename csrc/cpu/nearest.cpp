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

#include "element.h"
#include "parallel.h"
#include "tile_grid.h"
#include "tiles.h"

namespace repsim {
namespace {

// Larger is better: the score's bits in an order-preserving form, then the lower index.
uint64_t make_key(float score, int64_t index) {
  score += 0.0f;  // -0 and +0 are one score
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}

int64_t key_index(uint64_t key) { return 0xffffffffu - static_cast<uint32_t>(key); }

float key_score(uint64_t key) {
  uint32_t bits = static_cast<uint32_t>(key >> 32);
  bits = bits & 0x80000000u ? bits & 0x7fffffffu : ~bits;
  float score;
  std::memcpy(&score, &bits, sizeof score);
  return score;
}

struct Found {
  int32_t row;
  uint64_t key;
};

// Adds the candidates of one stripe of 192 rows; the caller holds the stripe's lock.
void offer(const Candidates& all, int64_t first_row, const std::vector<Found>& found, int64_t k) {
  for (const Found& one : found) {
    const int64_t row = first_row + one.row;
    float& threshold = all.thresholds[row];
    if (key_score(one.key) < threshold) continue;  // it has risen since the tile was scanned
    uint64_t* keys = all.keys + row * all.capacity;
    int32_t& count = all.counts[row];
    keys[count++] = one.key;
    if (count == all.capacity || (count == k && threshold == -FLT_MAX)) {
      std::nth_element(keys, keys + k - 1, keys + count, std::greater<>());
      count = static_cast<int32_t>(k);
      __atomic_store_n(
          reinterpret_cast<int32_t*>(&threshold),
          [&] {
            const float score = key_score(keys[k - 1]);
            int32_t bits;
            std::memcpy(&bits, &score, sizeof bits);
            return bits;
          }(),
          __ATOMIC_RELAXED);
    }
  }
}

void read_thresholds(const float* from, int64_t valid, float* to) {
  for (int64_t i = 0; i < valid; ++i) __atomic_load(from + i, to + i, __ATOMIC_RELAXED);
  std::fill(to + valid, to + kTile, FLT_MAX);
}

struct Workspace {
  cpu::TileBuffer scores{kTile * kTile};
  std::vector<cpu::Hit> hits = std::vector<cpu::Hit>(kTile * kTile);
  std::vector<Found> for_rows, for_columns;
  alignas(64) float half_i[kTile], half_j[kTile], threshold_i[kTile], threshold_j[kTile];
};

}  // namespace

void nearest(const BlockPair& pair, Metric metric, const BlockRange& range, bool symmetric, int64_t k,
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
    ops.multiply(pair.rows_i + tile.i * pair.depth, pair.rows_j + tile.j * pair.depth, pair.depth, c);
    if (metric == Metric::euclidean) {
      cpu::copy_padded(pair.half_i + tile.i, tile.rows, own->half_i);
      cpu::copy_padded(pair.half_j + tile.j, tile.columns, own->half_j);
      ops.subtract_halves(c, own->half_i, own->half_j);
    }
    cpu::fill_absent(c, tile, symmetric, -INFINITY);

    // A diagonal tile holds both (i, j) and (j, i): its rows alone see every pair.
    const bool serves_columns = symmetric && !tile.diagonal;
    read_thresholds(candidates.thresholds + first_i, tile.rows, own->threshold_i);
    read_thresholds(candidates.thresholds + first_j, serves_columns ? tile.columns : 0, own->threshold_j);
    const int32_t count = ops.select(c, own->threshold_i, own->threshold_j, own->hits.data());
    own->for_rows.clear();
    own->for_columns.clear();
    for (int32_t h = 0; h < count; ++h) {
      const cpu::Hit& hit = own->hits[h];
      if (hit.score >= own->threshold_i[hit.row])
        own->for_rows.push_back({hit.row, make_key(hit.score, first_j + hit.column)});
      if (hit.score >= own->threshold_j[hit.column])
        own->for_columns.push_back({hit.column, make_key(hit.score, first_i + hit.row)});
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

void rank_neighbours(const Source& x, const Source& base, Metric metric, int64_t k, const Candidates& candidates,
                     int64_t* indices, float* scores, int threads) {
  constexpr int64_t kRowsAtATime = 64;
  cpu::with_elements(x, [&](auto* rows) {
    cpu::with_elements(base, [&](auto* others) {
      auto work = [&](int64_t chunk, std::vector<std::pair<double, int64_t>>& best) {
        for (int64_t i = chunk * kRowsAtATime; i < std::min((chunk + 1) * kRowsAtATime, x.rows); ++i) {
          uint64_t* keys = candidates.keys + i * candidates.capacity;
          std::nth_element(keys, keys + k - 1, keys + candidates.counts[i], std::greater<>());
          const auto* a = rows + i * x.row_stride;
          best.clear();
          for (int64_t m = 0; m < k; ++m) {
            const int64_t j = key_index(keys[m]);
            const auto* b = others + j * base.row_stride;
            double dot = 0, norm_a = 0, norm_b = 0, distance = 0;
            for (int64_t t = 0; t < x.depth; ++t) {
              const double u = cpu::widen(a[t]), v = cpu::widen(b[t]);
              if (metric == Metric::euclidean) {
                distance += (u - v) * (u - v);
              } else {
                dot += u * v;
                norm_a += u * u;
                norm_b += v * v;
              }
            }
            const double score = metric == Metric::euclidean ? -std::sqrt(distance)
                                 : metric == Metric::cosine  ? dot / std::sqrt(norm_a) / std::sqrt(norm_b)
                                                             : dot;
            best.emplace_back(-score, j);
          }
          std::sort(best.begin(), best.end());
          for (int64_t m = 0; m < k; ++m) {
            indices[i * k + m] = best[m].second;
            scores[i * k + m] = static_cast<float>(-best[m].first);
          }
        }
      };
      cpu::parallel((x.rows + kRowsAtATime - 1) / kRowsAtATime, threads,
                    [] { return std::vector<std::pair<double, int64_t>>(); }, work);
    });
  });
}

}  // namespace repsim
