// The k best columns of every row, collected tile by tile. Parallel axis: tiles. Bytes: 2 * 192 * depth * 4 per tile.
//
// A row keeps up to `capacity` candidates above its threshold, the k-th best score it knows. Thresholds only rise, so
// what they turn away is never among the k best: the answer does not depend on the order in which tiles arrive.
#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <utility>
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
      float risen = key_score(keys[k - 1]);
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
  std::vector<cpu::Hit> hits = std::vector<cpu::Hit>(kTile * kTile);
  std::vector<Found> for_rows, for_columns;
  alignas(64) float half_i[kTile], half_j[kTile], threshold_i[kTile], threshold_j[kTile];
};

// sum_t term(a_t, b_t) in float64; four chains hide the latency of the addition.
template <class A, class B, class Term>
double sum_over(const A* a, const B* b, int64_t depth, Term term) {
  double sum[4] = {};
  int64_t t = 0;
  for (; t + 4 <= depth; t += 4)
    for (int chain = 0; chain < 4; ++chain) sum[chain] += term(cpu::widen(a[t + chain]), cpu::widen(b[t + chain]));
  for (; t < depth; ++t) sum[t & 3] += term(cpu::widen(a[t]), cpu::widen(b[t]));
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

constexpr auto product = [](double u, double v) { return u * v; };
constexpr auto squared_difference = [](double u, double v) { return (u - v) * (u - v); };

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
      if (serves_columns && hit.score >= own->threshold_j[hit.column])
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

namespace {

// How far a float32 score of a tile may have been off. Packing rounds each entry, the product adds one rounding for a
// feature of a chunk of 512 and one for each chunk, the halves and their subtraction a few more: 2^-24 times this sum.
struct Bound {
  double roundings;
  explicit Bound(int64_t depth)
      : roundings(static_cast<double>(std::min<int64_t>(depth, 512) + (depth + 511) / 512 + 4)) {}
  double operator()(double norm_i, double norm_j) const {
    const double both = norm_i + norm_j;
    return 1.01 * 0x1p-24 * (roundings * norm_i * norm_j + 4 * both * both);
  }
};

struct Scored {
  double worse;  // minus the score: ascending order is best first, ties to the lower index
  int64_t index;
  bool operator<(const Scored& other) const {
    return worse < other.worse || (worse == other.worse && index < other.index);
  }
};

}  // namespace

int64_t rank_neighbours(const Source& x, const Source& base, Metric metric, int64_t k, const Candidates& candidates,
                        const Certificate& certificate, int64_t first, int64_t* indices, float* scores, int threads) {
  constexpr int64_t kRowsAtATime = 16;
  const Bound bound(x.depth);
  const double unit = certificate.unit;
  const int64_t available = base.rows - (first >= 0);
  std::atomic<int64_t> undecided{0};
  cpu::with_elements(x, [&](auto* rows) {
    cpu::with_elements(base, [&](auto* others) {
      auto rank_row = [&](int64_t i, std::vector<Scored>& best) {
        const auto* a = rows + i * x.row_stride;
        const double norm = metric == Metric::cosine ? std::sqrt(sum_over(a, a, x.depth, product)) : 1.0;
        const auto scored = [&](int64_t j) {
          const auto* b = others + j * base.row_stride;
          double score;
          if (metric == Metric::euclidean) {
            score = -std::sqrt(sum_over(a, b, x.depth, squared_difference));
          } else {
            score = sum_over(a, b, x.depth, product);
            if (metric == Metric::cosine) score = score / norm / std::sqrt(sum_over(b, b, x.depth, product));
          }
          if (!std::isfinite(score)) throw std::range_error("scores: expected rows whose scores float64 can hold");
          return Scored{-score, j};
        };
        best.clear();
        uint64_t* keys = candidates.keys + i * candidates.capacity;
        int64_t count = candidates.counts[i];
        double turned_away = candidates.thresholds[i];  // no float32 score of a row that is no candidate is above this
        if (count > certificate.kept) {
          count = certificate.kept;
          std::nth_element(keys, keys + count - 1, keys + candidates.counts[i], std::greater<>());
          turned_away = key_score(keys[count - 1]);
        }
        for (int64_t m = 0; m < count; ++m) best.push_back(scored(key_index(keys[m])));
        for (int64_t m = 0; m < certificate.heavy_count; ++m) {
          const int64_t j = certificate.heavy[m];
          const auto is_candidate = [&](const Scored& one) { return one.index == j; };
          const bool self = first >= 0 && j == first + i;
          if (!self && std::none_of(best.begin(), best.begin() + count, is_candidate)) best.push_back(scored(j));
        }
        std::partial_sort(best.begin(), best.begin() + k, best.end());

        // The k-th best in the units of the tiles.
        const double kth = -best[k - 1].worse, own = std::sqrt(2.0 * certificate.halves[i]);
        double exact, error;
        if (metric == Metric::inner_product) {
          exact = kth * unit * unit;
          error = bound(own, certificate.longest);
        } else {  // a nearer row lies no further out than this row and the distance of its k-th neighbour
          const double distance = metric == Metric::cosine ? std::sqrt(std::max(0.0, 2 - 2 * kth)) : -kth * unit;
          exact = -distance * distance / 2;
          error = bound(own, own + distance);
        }
        if (count == available || exact > turned_away + error) return;
        undecided.fetch_add(1, std::memory_order_relaxed);
        best.clear();
        for (int64_t j = 0; j < base.rows; ++j) {
          if (first >= 0 && j == first + i) continue;
          const Scored one = scored(j);
          if (static_cast<int64_t>(best.size()) == k) {
            if (!(one < best.front())) continue;
            std::pop_heap(best.begin(), best.end());
            best.pop_back();
          }
          best.push_back(one);
          std::push_heap(best.begin(), best.end());
        }
        std::sort_heap(best.begin(), best.end());
      };
      auto work = [&](int64_t chunk, std::vector<Scored>& best) {
        for (int64_t i = chunk * kRowsAtATime; i < std::min((chunk + 1) * kRowsAtATime, x.rows); ++i) {
          rank_row(i, best);
          for (int64_t m = 0; m < k; ++m) {
            indices[i * k + m] = best[m].index;
            scores[i * k + m] = static_cast<float>(0.0 - best[m].worse);  // of duplicates 0, not -0
          }
        }
      };
      cpu::parallel((x.rows + kRowsAtATime - 1) / kRowsAtATime, threads, [] { return std::vector<Scored>(); }, work);
    });
  });
  return undecided.load();
}

}  // namespace repsim
