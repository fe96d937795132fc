// From candidates to exact neighbours: float64 scores where the filter leaves a doubt, and what proves that no doubt is
// left. Parallel axis: rows, and tiles for what is settled. Bytes: a little over k rows for each row.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cfloat>
#include <cmath>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#include "../bounds.h"
#include "../element.h"
#include "candidates.h"
#include "parallel.h"
#include "row_ops.h"

namespace repsim {
namespace {

struct Scored {
  double worse;  // minus the score: ascending order is best first, ties to the lower index
  int64_t index;
  bool operator<(const Scored& other) const {
    return worse < other.worse || (worse == other.worse && index < other.index);
  }
  bool operator==(const Scored& other) const { return worse == other.worse && index == other.index; }
};

// The float64 scores of one row at a time, held as float64.
class Exact {
 public:
  explicit Exact(const Ranking& ranking)
      : r_(ranking),
        row_(ranking.x.depth),
        widen_(cpu::row_ops().widen[static_cast<int>(ranking.x.dtype)]),
        score_((ranking.metric == Metric::euclidean ? cpu::row_ops().squared_distance
                                                    : cpu::row_ops().dot)[static_cast<int>(ranking.base.dtype)]) {}

  void hold(int64_t i) {
    widen_(row_of(r_.x, i), r_.x.depth, row_.data());
    if (r_.metric == Metric::cosine) norm_ = std::sqrt(r_.squared_norms[i]);
  }

  Scored operator()(int64_t j) const {
    double score = score_(row_.data(), row_of(r_.base, j), r_.x.depth);
    if (r_.metric == Metric::euclidean) score = -std::sqrt(score);
    if (r_.metric == Metric::cosine) score = score / norm_ / std::sqrt(r_.base_squared_norms[j]);
    if (!std::isfinite(score)) throw std::range_error("scores: expected rows whose scores float64 can hold");
    return {-score, j};
  }

 private:
  const Ranking& r_;
  std::vector<double> row_;
  void (*widen_)(const void*, int64_t, double*);
  double (*score_)(const double*, const void*, int64_t);
  double norm_ = 1.0;
};

// Puts one row into a list that is sorted best first, unless it stands there or all of the list are better.
void insert(const Scored& one, int64_t k, int64_t* indices, double* scores) {
  const auto at = [&](int64_t m) { return Scored{-scores[m], indices[m]}; };
  if (at(k - 1) < one) return;
  int64_t low = 0, high = k - 1;  // the first place whose row is not better than this one
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (at(middle) < one)
      low = middle + 1;
    else
      high = middle;
  }
  if (at(low) == one) return;
  std::copy_backward(indices + low, indices + k - 1, indices + k);
  std::copy_backward(scores + low, scores + k - 1, scores + k);
  indices[low] = one.index;
  scores[low] = 0.0 - one.worse;  // of duplicates 0, not -0
}

RowBounds bounds_of(const Ranking& ranking, const Certificate& certificate) {
  const int64_t depth = ranking.x.depth;
  return {ranking.metric, depth, certificate, roundings_in_chunks(certificate.filter, depth)};
}

// What one thread keeps.
struct Ranker {
  Exact exact;
  RowBounds bounds;
  std::vector<Scored> best;
  std::vector<uint64_t> unsorted;
  Ranker(const Ranking& ranking, const Certificate& certificate)
      : exact(ranking), bounds(bounds_of(ranking, certificate)) {}
};

// The candidates of every row in the order of the parts of the base they lie in. They lie anywhere: taking the base in
// parts that stay in cache, and all rows for each, they are read from there; a base that is many times larger than the
// cache gains nothing by more parts.
class ByPart {
 public:
  ByPart(const Source& base, int64_t rows)
      : part_rows_(
            std::max(kPartBytes / (bytes_of(base.dtype) * base.depth), (base.rows + kMostParts - 1) / kMostParts)),
        parts_((base.rows + part_rows_ - 1) / part_rows_),
        ends_(rows * parts_) {}

  int64_t parts() const { return parts_; }

  // Sorts those of row i.
  void sort(int64_t i, uint64_t* candidates, int64_t count, std::vector<uint64_t>& unsorted) {
    int32_t* end = ends_.data() + i * parts_;
    std::fill(end, end + parts_, 0);
    unsorted.assign(candidates, candidates + count);
    for (uint64_t j : unsorted) ++end[j / part_rows_];
    std::exclusive_scan(end, end + parts_, end, 0);
    for (uint64_t j : unsorted) candidates[end[j / part_rows_]++] = j;
  }

  // Where those of row i in one part are.
  std::pair<int32_t, int32_t> range(int64_t i, int64_t part) const {
    const int32_t* end = ends_.data() + i * parts_ + part;
    return {part ? end[-1] : 0, *end};
  }

 private:
  static constexpr int64_t kPartBytes = 4 << 20, kMostParts = 16;
  int64_t part_rows_, parts_;
  std::vector<int32_t> ends_;
};

}  // namespace

int64_t rank_neighbours(const Ranking& ranking, const Candidates& candidates, const Certificate& certificate,
                        int64_t* indices, double* scores, uint8_t* open, int threads) {
  constexpr int64_t kRowsAtATime = 16;
  const int64_t rows = ranking.x.rows, k = ranking.k;
  const auto keep_largest = cpu::row_ops().keep_largest;
  ByPart by_part(ranking.base, rows);

  auto for_rows = [&](auto use) {
    auto work = [&](int64_t chunk, std::unique_ptr<Ranker>& own) {
      for (int64_t i = chunk * kRowsAtATime; i < std::min((chunk + 1) * kRowsAtATime, rows); ++i)
        use(i, *own, candidates.keys + i * candidates.capacity, indices + i * k, scores + i * k);
    };
    cpu::parallel((rows + kRowsAtATime - 1) / kRowsAtATime, threads,
                  [&] { return std::make_unique<Ranker>(ranking, certificate); }, work);
  };

  // What is kept of the candidates, and what was turned away.
  std::vector<int32_t> known(rows);
  std::vector<float> turned_away(rows);
  for_rows([&](int64_t i, Ranker& own, uint64_t* keys, int64_t*, double*) {
    int64_t count = candidates.counts[i];
    turned_away[i] = candidates.thresholds[i];  // no score of a row that is no candidate is above this
    if (count > certificate.kept) {
      turned_away[i] = key_score(keep_largest(keys, count, certificate.kept));
      count = certificate.kept;
    }
    std::transform(keys, keys + count, keys, key_index);
    count = std::remove(keys, keys + count, ranking.own[i]) - keys;
    if (count < k) throw std::invalid_argument("candidates: expected at least k in every row");
    by_part.sort(i, keys, count, own.unsorted);
    known[i] = static_cast<int32_t>(count);
  });

  // Their scores, beside them.
  for (int64_t part = 0; part < by_part.parts(); ++part)
    for_rows([&](int64_t i, Ranker& own, uint64_t* keys, int64_t*, double*) {
      const auto [first, last] = by_part.range(i, part);
      if (first == last) return;
      own.exact.hold(i);
      for (int64_t m = first; m < last; ++m)
        keys[certificate.kept + m] = std::bit_cast<uint64_t>(own.exact(keys[m]).worse);
    });

  std::atomic<int64_t> left_open{0};
  for_rows([&](int64_t i, Ranker& own, uint64_t* keys, int64_t* list, double* exact) {
    own.best.clear();
    for (int64_t m = 0; m < known[i]; ++m)
      own.best.push_back({std::bit_cast<double>(keys[certificate.kept + m]), static_cast<int64_t>(keys[m])});
    std::nth_element(own.best.begin(), own.best.begin() + k - 1, own.best.end());
    std::sort(own.best.begin(), own.best.begin() + k);
    for (int64_t m = 0; m < k; ++m) {
      list[m] = own.best[m].index;
      exact[m] = 0.0 - own.best[m].worse;
    }
    if (certificate.heavy_count > 0) {
      own.exact.hold(i);
      for (int64_t m = 0; m < certificate.heavy_count; ++m)
        if (certificate.heavy[m] != ranking.own[i]) insert(own.exact(certificate.heavy[m]), k, list, exact);
    }
    own.bounds.hold(i);
    const bool decided =
        known[i] == ranking.base.rows - (ranking.own[i] >= 0) || own.bounds.level(exact[k - 1]) > turned_away[i];
    open[i] = !decided;
    if (!decided) left_open.fetch_add(1, std::memory_order_relaxed);
  });
  return left_open.load();
}

namespace {

struct Settler {
  cpu::TileBuffer scores{kTile * kTile};
  cpu::Hits hits;
  alignas(64) float half_i[kTile], half_j[kTile], level_i[kTile], level_j[kTile];
  Exact exact;
  std::vector<Scored> found;
  explicit Settler(const Ranking& ranking) : exact(ranking) { std::fill(level_j, level_j + kTile, FLT_MAX); }
};

}  // namespace

void settle_neighbours(const SearchPair& pair, const BlockRange& range, const Ranking& ranking,
                       const Certificate& certificate, int64_t* indices, double* scores, int threads) {
  const cpu::TileOps& ops = cpu::tile_ops();
  const cpu::TileGrid grid(range, false);
  const Metric metric = ranking.metric == Metric::cosine ? Metric::euclidean : ranking.metric;
  const int64_t k = ranking.k;
  std::vector<float> levels(range.rows_i);
  RowBounds bounds = bounds_of(ranking, certificate);
  for (int64_t i = 0; i < range.rows_i; ++i) {
    bounds.hold(i);
    levels[i] = std::nextafter(static_cast<float>(bounds.level(scores[i * k + k - 1])), -FLT_MAX);
  }
  std::vector<std::mutex> stripes(range.rows_i / kTile + 1);

  auto work = [&](int64_t number, std::unique_ptr<Settler>& own) {
    const cpu::Tile tile = grid.at(number);
    cpu::scores(ops, pair, metric, tile, false, own->half_i, own->half_j, own->scores.data());
    std::copy_n(levels.data() + tile.i, tile.rows, own->level_i);
    std::fill(own->level_i + tile.rows, own->level_i + kTile, FLT_MAX);
    ops.select(own->scores.data(), own->level_i, own->level_j, own->hits);
    for (int32_t h = 0, row = 0; row < kTile; ++row) {
      if (h == own->hits.ends[row]) continue;
      const int64_t i = tile.i + row;
      own->exact.hold(i);
      own->found.clear();
      for (; h < own->hits.ends[row]; ++h) {
        const int64_t j = range.first_j + tile.j + own->hits.columns[h];
        if (j != ranking.own[i]) own->found.push_back(own->exact(j));
      }
      std::lock_guard lock(stripes[i / kTile]);
      for (const Scored& one : own->found) insert(one, k, indices + i * k, scores + i * k);
    }
  };
  cpu::parallel(grid.count(), threads, [&] { return std::make_unique<Settler>(ranking); }, work);
}

}  // namespace repsim
