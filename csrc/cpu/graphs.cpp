// Statistics of two neighbour graphs, one of them relabelled. Parallel axis: relabellings x chunks of 1024 inputs.
// Bytes: the lists of both once per relabelling, those of a in random order.
#include <atomic>
#include <cmath>
#include <limits>
#include <type_traits>

#include "../element.h"
#include "lists.h"
#include "parallel.h"

namespace repsim {
namespace {

constexpr int64_t kRowsAtATime = 1024;

int64_t chunks_of(int64_t n) { return (n + kRowsAtATime - 1) / kRowsAtATime; }

__extension__ using Wide = __int128;

// sums[t] = sum of term(i, r, name, state) over the inputs r of b, i = name[r] the input of a that r becomes.
template <class MakeState, class Term>
void sum_terms(int64_t n, const int64_t* names, int64_t relabellings, double* sums, double* terms, int threads,
               MakeState make_state, Term term) {
  const int64_t chunks = chunks_of(n);
  std::vector<Wide> parts(relabellings * chunks);
  auto work = [&](int64_t item, auto& state) {
    const int64_t first = item % chunks * kRowsAtATime, stop = std::min(first + kRowsAtATime, n);
    const int64_t* name = names ? names + item / chunks * n : nullptr;
    Wide sum = 0;
    for (int64_t r = first; r < stop; ++r) {
      const int64_t i = name ? name[r] : r;
      const double one = term(i, r, name, state);
      if (terms && item / chunks == relabellings - 1) terms[i] = one;
      sum += static_cast<Wide>(one * 0x1p60);
    }
    parts[item] = sum;
  };
  cpu::parallel(relabellings * chunks, threads, make_state, work);
  for (int64_t t = 0; t < relabellings; ++t) {
    Wide sum = 0;
    for (int64_t c = 0; c < chunks; ++c) sum += parts[t * chunks + c];
    sums[t] = static_cast<double>(sum) * 0x1p-60;
  }
}

void keep_least(std::atomic<int64_t>& least, int64_t i) {
  for (int64_t known = least.load(); i < known && !least.compare_exchange_weak(known, i);) {
  }
}

// Reads a list that will be wanted a few inputs later; in the order of the names none lies beside the last.
constexpr int64_t kAhead = 4;
void prefetch(const Lists& a, const int64_t* name, int64_t r) {
  if (!name || r + kAhead >= a.n || a.offsets) return;
  const char* list = reinterpret_cast<const char*>(a.targets + name[r + kAhead] * a.k);
  __builtin_prefetch(list);
  __builtin_prefetch(list + 64);
}

}  // namespace

int64_t first_bad_list(const Lists& a, int64_t base_rows, bool excludes_self, int threads) {
  std::atomic<int64_t> bad{a.n};
  auto work = [&](int64_t chunk, cpu::Positions& positions) {
    for (int64_t i = chunk * kRowsAtATime; i < std::min((chunk + 1) * kRowsAtATime, a.n); ++i) {
      const cpu::List list = cpu::list_of(a, i);
      bool good = true;
      for (int64_t p = 0; p < list.length; ++p)
        good &= list.targets[p] >= 0 && list.targets[p] < base_rows && !(excludes_self && list.targets[p] == i);
      if (good && positions.fill(list.length, [&](int64_t p) { return list.targets[p]; })) continue;
      keep_least(bad, i);
      return;
    }
  };
  cpu::parallel(chunks_of(a.n), threads, [&] { return cpu::Positions(a.k); }, work);
  return bad.load() < a.n ? bad.load() : -1;
}

void transpose_lists(const Lists& a, int64_t* offsets, int64_t* sources) {
  std::fill(offsets, offsets + a.n + 1, 0);
  for (int64_t e = 0; e < a.n * a.k; ++e) ++offsets[a.targets[e] + 1];
  for (int64_t j = 0; j < a.n; ++j) offsets[j + 1] += offsets[j];
  for (int64_t e = 0; e < a.n * a.k; ++e) sources[offsets[a.targets[e]]++] = e / a.k;
  for (int64_t j = a.n; j > 0; --j) offsets[j] = offsets[j - 1];  // each has moved to where the next began
  offsets[0] = 0;
}

void list_statistics(const Lists& a, const Lists& b, ListStatistic statistic, const int64_t* names,
                     int64_t relabellings, double* sums, double* terms, int threads) {
  const int64_t k = b.k;
  const auto sum_over = [&](auto of) {
    sum_terms(
        a.n, names, relabellings, sums, terms, threads, [&] { return cpu::Common(k); },
        [&](int64_t i, int64_t r, const int64_t* name, cpu::Common& common) -> double {
          prefetch(a, name, r);
          const cpu::List list = cpu::list_of(a, i);
          common.find(list, cpu::list_of(b, r), name);
          return of(common, list.length);
        });
  };
  std::vector<double> harmonic{0.0};
  for (int64_t m = 1; m <= k; ++m) harmonic.push_back(harmonic.back() + 1.0 / static_cast<double>(m));

  const auto jaccard = [&](const cpu::Common& common, int64_t length) {
    const int64_t count = common.count();
    return static_cast<double>(count) / static_cast<double>(length + k - count);
  };
  const auto ranks = [&](const cpu::Common& common) {
    double sum = 0;
    for (const cpu::Match& match : common.matches)
      sum += 2.0 / (static_cast<double>(1 + std::abs(match.a - match.b)) * (match.a + match.b + 2.0));
    return common.count() ? sum / harmonic[common.count()] : 0.0;
  };
  using cpu::Common;
  switch (statistic) {
    case ListStatistic::shared:
      return sum_over([](Common& common, int64_t) { return static_cast<double>(common.count()); });
    case ListStatistic::meets:
      return sum_over([](Common& common, int64_t) { return common.count() ? 1.0 : 0.0; });
    case ListStatistic::jaccard:
      return sum_over(jaccard);
    case ListStatistic::ranks:
      return sum_over([&](Common& common, int64_t) { return ranks(common); });
    case ListStatistic::jaccard_ranks:
      return sum_over([&](Common& common, int64_t length) { return jaccard(common, length) * ranks(common); });
    case ListStatistic::common_subsequence:
      return sum_over(
          [](Common& common, int64_t) { return static_cast<double>(cpu::longest_common_subsequence(common)); });
    case ListStatistic::edit_distance:
      return sum_over([&](Common& common, int64_t) { return static_cast<double>(cpu::edit_distance(common, k)); });
  }
}

void masked_hsic(const Lists& a, const float* a_weights, const Lists& b, const float* b_weights, const int64_t* names,
                 int64_t relabellings, double* hsic, int threads) {
  const int64_t n = a.n, k = a.k, chunks = chunks_of(n);
  constexpr float kAbsent = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> shared(n * k);  // b's weight of every edge of a, or kAbsent
  std::vector<double> b_sums(n);     // of the shared weights of b in a row
  struct Part {
    double a, b, trace, cross;
  };
  std::vector<Part> parts(chunks);
  for (int64_t t = 0; t < relabellings; ++t) {
    const int64_t* name = names ? names + t * n : nullptr;
    auto find_shared = [&](int64_t chunk, cpu::Common& common) {
      Part part{};
      for (int64_t r = chunk * kRowsAtATime; r < std::min((chunk + 1) * kRowsAtATime, n); ++r) {
        const int64_t i = name ? name[r] : r;
        prefetch(a, name, r);
        common.find(cpu::list_of(a, i), cpu::list_of(b, r), name);
        std::fill(shared.begin() + i * k, shared.begin() + (i + 1) * k, kAbsent);
        double row = 0;
        for (const cpu::Match& match : common.matches) {
          const float weight = b_weights[r * k + match.b];
          shared[i * k + match.a] = weight;
          part.a += a_weights[i * k + match.a];
          row += weight;
        }
        b_sums[i] = row;
        part.b += row;
      }
      parts[chunk] = part;
    };
    auto add_products = [&](int64_t chunk) {
      Part& part = parts[chunk];
      for (int64_t i = chunk * kRowsAtATime; i < std::min((chunk + 1) * kRowsAtATime, n); ++i)
        for (int64_t p = 0; p < k; ++p) {
          if (std::isnan(shared[i * k + p])) continue;
          const int64_t j = a.targets[i * k + p];
          const double weight = a_weights[i * k + p];
          part.cross += weight * b_sums[j];
          const int64_t *first = a.targets + j * k, *back = std::lower_bound(first, first + k, i);
          if (back == first + k || *back != i) continue;
          const float there = shared[back - a.targets];
          if (!std::isnan(there)) part.trace += weight * there;
        }
    };
    cpu::parallel(chunks, threads, [&] { return cpu::Common(k); }, find_shared);
    cpu::parallel(chunks, threads, add_products);
    Part all{};
    for (const Part& part : parts) {
      all.a += part.a;
      all.b += part.b;
      all.trace += part.trace;
      all.cross += part.cross;
    }
    const double m = static_cast<double>(n);
    hsic[t] = (all.trace + all.a * all.b / ((m - 1) * (m - 2)) - 2 / (m - 2) * all.cross) / (m * (m - 3));
  }
}

namespace {

// Inner product of rows i and j in float64; eight chains, so that they can be one vector.
template <class T>
double row_product(const Source& x, int64_t i, int64_t j) {
  const T *u = static_cast<const T*>(x.data) + i * x.row_stride, *v = static_cast<const T*>(x.data) + j * x.row_stride;
  double sums[8] = {};
  int64_t t = 0;
  for (; t + 8 <= x.depth; t += 8)
    for (int chain = 0; chain < 8; ++chain) sums[chain] += widen(u[t + chain]) * widen(v[t + chain]);
  for (; t < x.depth; ++t) sums[t & 7] += widen(u[t]) * widen(v[t]);
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

using RowProduct = double (*)(const Source&, int64_t, int64_t);

RowProduct row_product_of(const Source& x) {
  return with_elements(
      x, [](auto* data) -> RowProduct { return row_product<std::remove_cv_t<std::remove_pointer_t<decltype(data)>>>; });
}

}  // namespace

void edge_cosines(const Source& x, const double* lengths, const Lists& lists, double* cosines, int threads) {
  const RowProduct product = row_product_of(x);
  cpu::parallel(chunks_of(lists.n), threads, [&](int64_t chunk) {
    for (int64_t i = chunk * kRowsAtATime; i < std::min((chunk + 1) * kRowsAtATime, lists.n); ++i)
      for (int64_t p = 0; p < lists.k; ++p) {
        const int64_t j = lists.targets[i * lists.k + p];
        cosines[i * lists.k + p] = product(x, i, j) / lengths[i] / lengths[j];
      }
  });
}

int64_t second_order_cosines(const ListedRows& a, const ListedRows& b, const int64_t* names, int64_t relabellings,
                             double* sums, double* terms, int threads) {
  const int64_t n = a.lists.n, k = a.lists.k;
  const RowProduct product_a = row_product_of(a.rows), product_b = row_product_of(b.rows);
  std::vector<int64_t> old_names(n);  // the other way: which input of b becomes input i
  std::atomic<int64_t> zero{n};
  struct State {
    cpu::Common common;
    std::vector<int32_t> position_in_b;  // of every entry of a's list, or -1
    std::vector<char> in_both;           // of every entry of b's list
  };
  for (int64_t t = 0; t < relabellings; ++t) {
    const int64_t* names_t = names ? names + t * n : nullptr;
    for (int64_t r = 0; r < n; ++r) old_names[names_t ? names_t[r] : r] = r;
    const auto term = [&](int64_t i, int64_t r, const int64_t* name, State& state) {
      const cpu::List list_a = cpu::list_of(a.lists, i), list_b = cpu::list_of(b.lists, r);
      state.common.find(list_a, list_b, name);
      state.position_in_b.assign(k, -1);
      state.in_both.assign(k, 0);
      for (const cpu::Match& match : state.common.matches) {
        state.position_in_b[match.a] = match.b;
        state.in_both[match.b] = 1;
      }
      double product = 0, square_a = 0, square_b = 0;
      const auto add = [&](double cosine_a, double cosine_b) {
        product += cosine_a * cosine_b;
        square_a += cosine_a * cosine_a;
        square_b += cosine_b * cosine_b;
      };
      for (int64_t p = 0; p < k; ++p) {
        const int32_t q = state.position_in_b[p];
        const int64_t j = old_names[list_a.targets[p]];
        add(a.cosines[i * k + p],
            q >= 0 ? b.cosines[r * k + q] : product_b(b.rows, r, j) / b.lengths[r] / b.lengths[j]);
      }
      for (int64_t q = 0; q < k; ++q) {
        if (state.in_both[q]) continue;
        const int64_t j = name ? name[list_b.targets[q]] : list_b.targets[q];
        add(product_a(a.rows, i, j) / a.lengths[i] / a.lengths[j], b.cosines[r * k + q]);
      }
      if (!(square_a > 0 && square_b > 0)) {
        keep_least(zero, i);
        return 0.0;
      }
      return product / std::sqrt(square_a * square_b);
    };
    sum_terms(
        n, names_t, 1, sums + t, terms, threads,
        [&] { return State{cpu::Common(k), std::vector<int32_t>(k), std::vector<char>(k)}; }, term);
  }
  return zero.load() < n ? zero.load() : -1;
}

}  // namespace repsim
