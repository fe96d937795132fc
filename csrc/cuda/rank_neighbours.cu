// From candidates to exact neighbours: float64 scores where the filter leaves a doubt, and what proves that no doubt is
// left. Parallel axis: rows, a warp each. Bytes: a little over k rows for each row.
//
// Scores are the bits of the CPU: the order of additions is its own, and there are no fused multiply-adds (the build
// says so).
#include <cfloat>
#include <cmath>

#include "../bounds.h"
#include "../element.h"
#include "../keys.h"
#include "execution.h"
#include "lists.h"
#include "ops.h"

namespace repsim::cuda {
namespace {

REPSIM_DEVICE double element(const Source& x, int64_t i, int64_t k) {
  const int64_t at = i * x.row_stride + k;
  switch (x.dtype) {
    case DType::float16:
      return widen(static_cast<const Half*>(x.data)[at]);
    case DType::bfloat16:
      return widen(static_cast<const BFloat*>(x.data)[at]);
    case DType::float32:
      return widen(static_cast<const float*>(x.data)[at]);
    default:
      return widen(static_cast<const double*>(x.data)[at]);
  }
}

// Better is smaller: ties to the lower index.
struct Scored {
  double worse;  // minus the score
  int64_t index;
  REPSIM_DEVICE bool before(const Scored& other) const {
    return worse < other.worse || (worse == other.worse && index < other.index);
  }
};

// The float64 score of row j of the base for row i, by a warp.
REPSIM_DEVICE_OUT_OF_LINE double exact_score(const Warp& warp, const Ranking& ranking, int64_t i, int64_t j) {
  PerLane<double> terms;
  const bool distance = ranking.metric == Metric::euclidean;
  warp.each_lane([&](int lane) {
    double sum = 0;
    for (int64_t k = lane; k < ranking.x.depth; k += kLanes) {
      const double u = element(ranking.x, i, k), v = element(ranking.base, j, k);
      sum += distance ? (u - v) * (u - v) : u * v;
    }
    terms[lane] = sum;
  });
  const double sum = warp.sum(terms, 8, 16, 1, 2, 4);
  if (distance) return -std::sqrt(sum);
  if (ranking.metric == Metric::inner_product) return sum;
  return sum / std::sqrt(ranking.squared_norms[i]) / std::sqrt(ranking.base_squared_norms[j]);
}

REPSIM_DEVICE RowBounds bounds_of(const Ranking& ranking, const Certificate& certificate) {
  const int64_t depth = ranking.x.depth;
  return {ranking.metric, depth, certificate, roundings_in_any_order(certificate.filter, depth)};
}

struct Rank {
  static constexpr int kThreads = kLanes, kResident = 16;
  Ranking ranking;
  Candidates candidates;
  Certificate certificate;
  int64_t* indices;
  double* scores;
  uint8_t* open;
  int32_t* unbounded;

  REPSIM_DEVICE void operator()(const Block& block, unsigned char* shared) const {
    block.each_warp([&](const Warp& warp) { row(warp, block.index(), shared); });
  }

  REPSIM_DEVICE void row(const Warp& warp, int64_t i, unsigned char* shared) const {
    const int capacity = static_cast<int>(candidates.capacity), kept = static_cast<int>(certificate.kept);
    const int64_t k = ranking.k, own = ranking.own[i];
    uint64_t* list = reinterpret_cast<uint64_t*>(shared);        // [capacity] keys, then rows of the base
    double* worse = reinterpret_cast<double*>(list + capacity);  // [capacity]
    int count = candidates.counts[i];
    uint64_t floor = candidates.floors[i];
    sorted_copy(warp, candidates.keys + i * capacity, count, capacity, list);
    if (count > kept) {
      floor = list[kept - 1];
      count = kept;
    }
    const float turned_away = key_score(floor);  // no score of a row that is no candidate is above this

    int known = 0;
    for (int begin = 0; begin < count; begin += kLanes) {
      PerLane<uint64_t> index;
      PerLane<bool> other;
      warp.each_lane([&](int lane) {
        index[lane] = begin + lane < count ? static_cast<uint64_t>(key_index(list[begin + lane])) : 0;
        other[lane] = begin + lane < count && static_cast<int64_t>(index[lane]) != own;
      });
      const uint32_t mask = warp.ballot(other);
      warp.sync();
      warp.each_lane([&](int lane) {
        if (other[lane]) list[known + place_in(mask, lane)] = index[lane];
      });
      warp.sync();
      known += count_bits_of(mask);
    }
    int all = known;  // and the heavy rows that are not among them
    for (int64_t h = 0; h < certificate.heavy_count; ++h) {
      const int64_t heavy = certificate.heavy[h];
      PerLane<bool> here;
      warp.each_lane([&](int lane) {
        here[lane] = heavy == own;
        for (int at = lane; at < known; at += kLanes) here[lane] |= static_cast<int64_t>(list[at]) == heavy;
      });
      if (warp.ballot(here) != 0) continue;
      warp.each_lane([&](int lane) {
        if (lane == 0) list[all] = static_cast<uint64_t>(heavy);
      });
      ++all;
    }
    warp.sync();

    for (int at = 0; at < all; ++at) {
      const double score = exact_score(warp, ranking, i, static_cast<int64_t>(list[at]));
      warp.each_lane([&](int lane) {
        if (lane != 0) return;
        worse[at] = -score;
        if (!std::isfinite(score)) *unbounded = 1;
      });
    }
    warp.sync();
    warp.each_lane([&](int lane) {
      for (int at = lane; at < all; at += kLanes) {
        const Scored one{worse[at], static_cast<int64_t>(list[at])};
        int64_t before = 0;
        for (int other = 0; other < all; ++other)
          before += Scored{worse[other], static_cast<int64_t>(list[other])}.before(one);
        if (before >= k) continue;
        indices[i * k + before] = one.index;
        scores[i * k + before] = 0.0 - one.worse;  // of duplicates 0, not -0
      }
    });
    warp.sync();
    warp.each_lane([&](int lane) {
      if (lane != 0) return;
      RowBounds bounds = bounds_of(ranking, certificate);
      bounds.hold(i);
      const bool decided = known == ranking.base.rows - (own >= 0) || bounds.level(scores[i * k + k - 1]) > turned_away;
      open[i] = !decided;
    });
  }
};

struct Settle {
  static constexpr int kWarps = 2;
  static constexpr int kThreads = kWarps * kLanes, kResident = 8;
  const float* products;
  const float* half_i;
  const float* half_j;
  Tile tile;
  Ranking ranking;
  Certificate certificate;
  int64_t* indices;
  double* scores;
  int32_t* unbounded;

  REPSIM_DEVICE void operator()(const Block& block, unsigned char*) const {
    block.each_warp([&](const Warp& warp) {
      const int64_t row = block.index() * kWarps + warp.number;
      if (row < tile.rows) search(warp, row);
    });
  }

  REPSIM_DEVICE void search(const Warp& warp, int64_t row) const {
    const int64_t i = tile.first_i + row, k = ranking.k, own = ranking.own[i];
    RowBounds bounds = bounds_of(ranking, certificate);
    bounds.hold(i);
    const float level = std::nextafterf(static_cast<float>(bounds.level(scores[i * k + k - 1])), -FLT_MAX);
    const float* line = products + row * tile.pitch;
    const float half = half_i ? half_i[row] : 0.0f;
    for (int64_t begin = 0; begin < tile.columns; begin += kLanes) {
      PerLane<bool> near;
      warp.each_lane([&](int lane) {
        const int64_t j = begin + lane;
        float score = -INFINITY;
        if (j < tile.columns && tile.first_j + j != own) score = half_j ? line[j] - (half_j[j] + half) : line[j];
        near[lane] = score >= level;
      });
      for (uint32_t mask = warp.ballot(near); mask != 0; mask &= mask - 1) {
        const int64_t j = tile.first_j + begin + lowest_bit_of(mask);
        const double score = exact_score(warp, ranking, i, j);
        warp.each_lane([&](int lane) {
          if (lane == 0 && !std::isfinite(score)) *unbounded = 1;
        });
        insert(warp, {-score, j}, indices + i * k, scores + i * k, k);
      }
    }
  }

  // Puts one row into a list that is sorted best first, unless it stands there or all of the list are better.
  REPSIM_DEVICE static void insert(const Warp& warp, const Scored& one, int64_t* list, double* score, int64_t k) {
    const Scored last{-score[k - 1], list[k - 1]};
    if (last.before(one)) return;
    PerLane<int> better;
    warp.each_lane([&](int lane) {
      better[lane] = 0;
      for (int64_t at = lane; at < k; at += kLanes) better[lane] += Scored{-score[at], list[at]}.before(one);
    });
    const int64_t place = warp.sum(better);
    if (list[place] == one.index && -score[place] == one.worse) return;
    for (int64_t end = k - 1; end > place; end -= kLanes) {  // from the end on, 32 at a time
      PerLane<int64_t> moved;
      PerLane<double> moved_score;
      warp.each_lane([&](int lane) {
        if (end - lane <= place) return;
        moved[lane] = list[end - lane - 1];
        moved_score[lane] = score[end - lane - 1];
      });
      warp.sync();
      warp.each_lane([&](int lane) {
        if (end - lane <= place) return;
        list[end - lane] = moved[lane];
        score[end - lane] = moved_score[lane];
      });
      warp.sync();
    }
    warp.each_lane([&](int lane) {
      if (lane != 0) return;
      list[place] = one.index;
      score[place] = 0.0 - one.worse;  // of duplicates 0, not -0
    });
    warp.sync();
  }
};

}  // namespace

void rank_neighbours(const Ranking& ranking, const Candidates& candidates, const Certificate& certificate,
                     int64_t* indices, double* scores, uint8_t* open, int32_t* unbounded, void* stream) {
  launch(Rank{ranking, candidates, certificate, indices, scores, open, unbounded}, ranking.x.rows,
         candidates.capacity * (sizeof(uint64_t) + sizeof(double)), stream);
}

void settle_neighbours(const float* products, const float* half_i, const float* half_j, const Tile& tile,
                       const Ranking& ranking, const Certificate& certificate, int64_t* indices, double* scores,
                       int32_t* unbounded, void* stream) {
  launch(Settle{products, half_i, half_j, tile, ranking, certificate, indices, scores, unbounded},
         (tile.rows + Settle::kWarps - 1) / Settle::kWarps, 0, stream);
}

}  // namespace repsim::cuda
