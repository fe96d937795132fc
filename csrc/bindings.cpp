// The only file that knows nanobind: check what the types cannot say, release the GIL, forward.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "ops.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Panels = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
// bfloat16 rows arrive as their uint16 bits, with the dtype said beside them.
using AnyRows = nb::ndarray<nb::ro, nb::ndim<2>, nb::device::cpu>;

[[noreturn]] void refuse(const std::string& message) { throw nb::value_error(message.c_str()); }

void expect(bool holds, const char* message) {
  if (!holds) refuse(message);
}

repsim::DType dtype_of(const AnyRows& x, const std::string& name) {
  struct Known {
    const char* name;
    nb::dlpack::dtype type;
    repsim::DType dtype;
  };
  static const Known known[] = {{"float16", {2, 16, 1}, repsim::DType::float16},
                                {"bfloat16", {1, 16, 1}, repsim::DType::bfloat16},
                                {"float32", {2, 32, 1}, repsim::DType::float32},
                                {"float64", {2, 64, 1}, repsim::DType::float64}};
  for (const Known& one : known)
    if (name == one.name) {
      expect(x.dtype() == one.type, "rows: expected memory of the dtype that is named, got another");
      return one.dtype;
    }
  refuse("dtype: expected float16, bfloat16, float32 or float64, got " + name);
}

repsim::Source source(const AnyRows& x, const std::string& dtype) {
  expect(x.shape(1) <= 1 || x.stride(1) == 1, "rows: expected features next to each other");
  return {x.data(), dtype_of(x, dtype), static_cast<int64_t>(x.shape(0)), static_cast<int64_t>(x.shape(1)),
          x.stride(0)};
}

repsim::Metric metric_of(const std::string& name) {
  if (name == "cosine") return repsim::Metric::cosine;
  if (name == "inner_product") return repsim::Metric::inner_product;
  if (name == "euclidean") return repsim::Metric::euclidean;
  refuse("metric: expected cosine, inner_product or euclidean, got " + name);
}

int64_t panel_count(int64_t rows) {
  return (rows + repsim::kTile - 1) / repsim::kTile * (repsim::kTile / repsim::kPanel);
}

struct Block {
  Panels panels;
  Vector<float> halves;
  int64_t depth() const { return static_cast<int64_t>(panels.shape(1)); }
};

// Whole vectors are loaded and stored.
void check_aligned(const Panels& panels) {
  expect(reinterpret_cast<std::uintptr_t>(panels.data()) % 64 == 0, "panels: expected memory aligned to 64 bytes");
}

// The memory belongs to the caller's tuple: a conversion would make a copy that ends with the Block.
Block block_of(const nb::tuple& arrays, int64_t rows, const char* message) {
  Block block;
  expect(nb::len(arrays) == 2 && nb::try_cast(arrays[0], block.panels, false) &&
             nb::try_cast(arrays[1], block.halves, false),
         message);
  expect(static_cast<int64_t>(block.panels.shape(0)) == panel_count(rows) && block.panels.shape(1) > 0 &&
             block.panels.shape(2) == repsim::kPanel && static_cast<int64_t>(block.halves.shape(0)) == rows,
         message);
  check_aligned(block.panels);
  return block;
}

repsim::BlockPair block_pair(const nb::tuple& i, const nb::tuple& j, repsim::Kernel kernel, float shift,
                             const repsim::BlockRange& range) {
  const Block left = block_of(i, range.rows_i, "block i: expected float32 panels and halves of its rows");
  const Block right = block_of(j, range.rows_j, "block j: expected float32 panels and halves of its rows");
  expect(left.depth() == right.depth(), "blocks: expected one depth");
  return {
      left.panels.data(), right.panels.data(), left.halves.data(), right.halves.data(), left.depth(), kernel, shift};
}

// `symmetric`: both blocks lie in the same rows, so they are one block or have no row in common.
repsim::BlockRange block_range(const std::tuple<int64_t, int64_t, int64_t, int64_t>& range, bool symmetric) {
  constexpr int64_t most = int64_t{1} << 32;
  const auto [first_i, rows_i, first_j, rows_j] = range;
  expect(first_i >= 0 && first_j >= 0 && first_i % repsim::kTile == 0 && first_j % repsim::kTile == 0,
         "range: expected blocks that begin at a multiple of 192");
  expect(rows_i > 0 && rows_j > 0, "range: expected rows");
  expect(first_i <= most && rows_i <= most && first_j <= most && rows_j <= most && first_j + rows_j <= most,
         "range: expected at most 2^32 rows");
  expect(!symmetric ||
             (first_i == first_j ? rows_i == rows_j : first_i + rows_i <= first_j || first_j + rows_j <= first_i),
         "range: expected one block twice, or two without a common row");
  return {first_i, rows_i, first_j, rows_j};
}

int64_t column_sums(AnyRows x, const std::string& dtype, Vector<double> sums, int threads) {
  const repsim::Source rows = source(x, dtype);
  expect(static_cast<int64_t>(sums.shape(0)) == rows.depth, "sums: expected one number per column");
  nb::gil_scoped_release release;
  return repsim::column_sums(rows, sums.data(), threads);
}

void squared_norms(AnyRows x, const std::string& dtype, std::optional<Vector<const double>> shift, Vector<double> norms,
                   int threads) {
  const repsim::Source rows = source(x, dtype);
  expect(static_cast<int64_t>(norms.shape(0)) == rows.rows, "norms: expected one number per row");
  expect(!shift || static_cast<int64_t>(shift->shape(0)) == rows.depth, "shift: expected one number per column");
  nb::gil_scoped_release release;
  repsim::squared_norms(rows, shift ? shift->data() : nullptr, norms.data(), threads);
}

void pack_rows(AnyRows x, const std::string& dtype, std::optional<Vector<const double>> shift,
               Vector<const double> scale, std::optional<Vector<const double>> offset, Panels panels,
               Vector<float> halves, int threads) {
  const repsim::Source rows = source(x, dtype);
  expect(static_cast<int64_t>(scale.shape(0)) == rows.rows, "scale: expected one number per row");
  expect(!shift || static_cast<int64_t>(shift->shape(0)) == rows.depth, "shift: expected one number per column");
  expect(!offset || static_cast<int64_t>(offset->shape(0)) == rows.depth, "offset: expected one number per column");
  expect(static_cast<int64_t>(panels.shape(0)) == panel_count(rows.rows) &&
             static_cast<int64_t>(panels.shape(1)) == rows.depth && panels.shape(2) == repsim::kPanel,
         "panels: expected [12 ceil(rows / 192), depth, 16]");
  check_aligned(panels);
  expect(static_cast<int64_t>(halves.shape(0)) == rows.rows, "halves: expected one number per row");
  nb::gil_scoped_release release;
  repsim::pack_rows(rows, shift ? shift->data() : nullptr, scale.data(), offset ? offset->data() : nullptr,
                    panels.data(), halves.data(), threads);
}

void kernel_sums(const std::vector<std::tuple<nb::tuple, nb::tuple, std::string, float>>& matrices, int64_t left,
                 const std::tuple<int64_t, int64_t, int64_t, int64_t>& where, int row_bits, Matrix<int64_t> row_sums,
                 nb::ndarray<int64_t, nb::ndim<3>, nb::c_contig, nb::device::cpu> products, int threads) {
  const repsim::BlockRange range = block_range(where, true);
  std::vector<repsim::BlockPair> pairs;
  expect(!matrices.empty(), "matrices: expected at least one");
  expect(left >= 0 && left <= static_cast<int64_t>(matrices.size()), "left: expected some of the matrices");
  for (const auto& [i, j, kernel, shift] : matrices) {
    expect(kernel == "linear" || kernel == "rbf", "kernel: expected linear or rbf");
    pairs.push_back(block_pair(i, j, kernel == "rbf" ? repsim::Kernel::rbf : repsim::Kernel::linear, shift, range));
  }
  const int64_t n = static_cast<int64_t>(row_sums.shape(1));
  expect(row_sums.shape(0) == pairs.size(), "row_sums: expected one row per matrix");
  expect(range.first_i + range.rows_i <= n && range.first_j + range.rows_j <= n,
         "row_sums: expected every row of the blocks");
  expect(n <= repsim::kMaxSummedRows, "row_sums: expected at most 2^25 rows, whose sums fit their integers");
  expect(row_bits >= 0 && std::ldexp(static_cast<double>(n), row_bits) <= 0x1p62,
         "row_bits: expected n 2^row_bits of at most 2^62");
  expect(products.shape(0) == pairs.size() && products.shape(1) == pairs.size() && products.shape(2) == 2,
         "products: expected [matrices, matrices, 2]");
  nb::gil_scoped_release release;
  repsim::kernel_sums(pairs.data(), static_cast<int64_t>(pairs.size()), left, range, n, row_bits, row_sums.data(),
                      products.data(), threads);
}

repsim::Candidates candidates_of(const Matrix<uint64_t>& keys, const Vector<int32_t>& counts,
                                 const Vector<float>& thresholds, int64_t k) {
  expect(counts.shape(0) == keys.shape(0) && thresholds.shape(0) == keys.shape(0), "candidates: expected one length");
  expect(k >= 1 && static_cast<int64_t>(keys.shape(1)) > k, "candidates: expected room for more than k");
  return {keys.data(), counts.data(), thresholds.data(), static_cast<int64_t>(keys.shape(1))};
}

void nearest(const nb::tuple& block_i, const nb::tuple& block_j, const std::string& metric,
             const std::tuple<int64_t, int64_t, int64_t, int64_t>& where, bool symmetric, int64_t k,
             Matrix<uint64_t> keys, Vector<int32_t> counts, Vector<float> thresholds, int threads) {
  const repsim::BlockRange range = block_range(where, symmetric);
  const repsim::BlockPair pair = block_pair(block_i, block_j, repsim::Kernel::linear, 0.0f, range);
  const repsim::Candidates candidates = candidates_of(keys, counts, thresholds, k);
  const int64_t rows = static_cast<int64_t>(keys.shape(0));
  expect(range.first_i + range.rows_i <= rows && (!symmetric || range.first_j + range.rows_j <= rows),
         "candidates: expected every row of the blocks");
  const repsim::Metric kind = metric_of(metric);
  expect(kind != repsim::Metric::cosine,
         "metric: expected inner_product or euclidean; cosines are distances of unit rows");
  nb::gil_scoped_release release;
  repsim::nearest(pair, kind, range, symmetric, k, candidates, threads);
}

int64_t rank_neighbours(AnyRows x, const std::string& x_dtype, AnyRows base, const std::string& base_dtype,
                        const std::string& metric, Matrix<uint64_t> keys, Vector<int32_t> counts,
                        Vector<float> thresholds, Vector<float> halves, double unit, double longest,
                        Vector<int64_t> heavy, int64_t kept, int64_t first, Matrix<int64_t> indices,
                        Matrix<float> scores, int threads) {
  const repsim::Source rows = source(x, x_dtype), others = source(base, base_dtype);
  const int64_t k = static_cast<int64_t>(indices.shape(1));
  const repsim::Candidates candidates = candidates_of(keys, counts, thresholds, k);
  expect(rows.depth == others.depth, "base: expected the depth of x");
  expect(static_cast<int64_t>(keys.shape(0)) == rows.rows && halves.shape(0) == keys.shape(0) &&
             indices.shape(0) == keys.shape(0) && scores.shape(0) == keys.shape(0) &&
             scores.shape(1) == indices.shape(1),
         "neighbours: expected [rows, k]");
  expect(first >= -1 && (first == -1 || first + rows.rows <= others.rows),
         "first: expected where x lies in the base, or -1");
  expect(kept >= k && kept < candidates.capacity, "kept: expected at least k, and less than the candidates' room");
  expect(k <= others.rows - (first >= 0), "indices: expected k of at most the rows there are");
  for (size_t i = 0; i < counts.shape(0); ++i)
    expect(counts(i) >= k && counts(i) <= candidates.capacity, "candidates: expected at least k in every row");
  for (size_t i = 0; i < heavy.shape(0); ++i)
    expect(heavy(i) >= 0 && heavy(i) < others.rows, "heavy: expected rows of the base");
  const repsim::Certificate certificate{
      halves.data(), unit, longest, heavy.data(), static_cast<int64_t>(heavy.shape(0)), kept};
  const repsim::Metric kind = metric_of(metric);
  nb::gil_scoped_release release;
  return repsim::rank_neighbours(rows, others, kind, k, candidates, certificate, first, indices.data(), scores.data(),
                                 threads);
}

template <class T>
using Given = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using GivenVector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void expect_inputs(const int64_t* named, size_t count, int64_t n, const char* message) {
  bool inside = true;
  for (size_t at = 0; at < count; ++at) inside &= named[at] >= 0 && named[at] < n;
  expect(inside, message);
}

repsim::Lists lists_of(const Given<int64_t>& lists) {
  return {lists.data(), nullptr, static_cast<int64_t>(lists.shape(0)), static_cast<int64_t>(lists.shape(1))};
}

// Lists of inputs below n, of whom there are at most 2^31 - 1 to a list.
repsim::Lists checked_lists(const Given<int64_t>& lists) {
  const repsim::Lists all = lists_of(lists);
  expect(all.k >= 1 && all.k < int64_t{1} << 31, "lists: expected at least one input in a list");
  expect_inputs(lists.data(), lists.size(), all.n, "lists: expected inputs from 0 to n - 1");
  return all;
}

using Names = std::optional<Given<int64_t>>;

int64_t relabellings_of(const Names& names, int64_t n, size_t results) {
  const int64_t count = names ? static_cast<int64_t>(names->shape(0)) : 1;
  expect(!names || static_cast<int64_t>(names->shape(1)) == n, "names: expected one for every input");
  expect(static_cast<int64_t>(results) == count, "sums: expected one number per relabelling");
  if (names) expect_inputs(names->data(), names->size(), n, "names: expected inputs from 0 to n - 1");
  return count;
}

int64_t first_bad_list(Given<int64_t> lists, int64_t base_rows, bool excludes_self, int threads) {
  const repsim::Lists all = lists_of(lists);
  expect(all.k >= 1 && all.k < int64_t{1} << 31, "lists: expected at least one input in a list");
  nb::gil_scoped_release release;
  return repsim::first_bad_list(all, base_rows, excludes_self, threads);
}

void transpose_lists(Given<int64_t> lists, Vector<int64_t> offsets, Vector<int64_t> sources) {
  const repsim::Lists all = checked_lists(lists);
  expect(static_cast<int64_t>(offsets.shape(0)) == all.n + 1, "offsets: expected n + 1 numbers");
  expect(sources.shape(0) == lists.size(), "sources: expected one number per edge");
  nb::gil_scoped_release release;
  repsim::transpose_lists(all, offsets.data(), sources.data());
}

repsim::ListStatistic list_statistic_of(const std::string& name) {
  struct Known {
    const char* name;
    repsim::ListStatistic statistic;
  };
  using enum repsim::ListStatistic;
  static const Known known[] = {{"shared", shared},
                                {"meets", meets},
                                {"jaccard", jaccard},
                                {"ranks", ranks},
                                {"jaccard_ranks", jaccard_ranks},
                                {"common_subsequence", common_subsequence},
                                {"edit_distance", edit_distance}};
  for (const Known& one : known)
    if (name == one.name) return one.statistic;
  refuse("statistic: expected shared, meets, jaccard, ranks, jaccard_ranks, common_subsequence or edit_distance, got " +
         name);
}

void list_statistics(GivenVector<int64_t> a, std::optional<GivenVector<int64_t>> offsets, Given<int64_t> b,
                     const std::string& statistic, Names names, Vector<double> sums,
                     std::optional<Vector<double>> terms, int threads) {
  const repsim::ListStatistic kind = list_statistic_of(statistic);
  const repsim::Lists right = checked_lists(b);
  const int64_t n = right.n;
  expect(offsets || a.size() == b.size(), "a: expected lists like those of b, or offsets");
  expect(!offsets || kind != repsim::ListStatistic::edit_distance, "offsets: expected none for edit_distance");
  expect(!offsets || static_cast<int64_t>(offsets->shape(0)) == n + 1, "offsets: expected n + 1 numbers");
  expect(!terms || static_cast<int64_t>(terms->shape(0)) == n, "terms: expected one number per input");
  expect_inputs(a.data(), a.size(), n, "lists: expected inputs from 0 to n - 1");
  if (offsets) {
    const int64_t* starts = offsets->data();
    bool ascend = starts[0] == 0 && starts[n] == static_cast<int64_t>(a.size());
    for (int64_t i = 0; i < n; ++i) ascend &= starts[i] <= starts[i + 1];
    expect(ascend, "offsets: expected them to ascend from 0 to the number of edges");
  }
  const int64_t relabellings = relabellings_of(names, n, sums.shape(0));
  const repsim::Lists left{a.data(), offsets ? offsets->data() : nullptr, n, right.k};
  nb::gil_scoped_release release;
  repsim::list_statistics(left, right, kind, names ? names->data() : nullptr, relabellings, sums.data(),
                          terms ? terms->data() : nullptr, threads);
}

void masked_hsic(Given<int64_t> a, Given<float> a_weights, Given<int64_t> b, Given<float> b_weights, Names names,
                 Vector<double> hsic, int threads) {
  const repsim::Lists left = checked_lists(a), right = checked_lists(b);
  expect(left.n == right.n && left.k == right.k, "lists: expected one shape");
  for (const auto& weights : {a_weights, b_weights})
    expect(weights.shape(0) == a.shape(0) && weights.shape(1) == a.shape(1), "weights: expected one per edge");
  const int64_t relabellings = relabellings_of(names, left.n, hsic.shape(0));
  nb::gil_scoped_release release;
  repsim::masked_hsic(left, a_weights.data(), right, b_weights.data(), names ? names->data() : nullptr, relabellings,
                      hsic.data(), threads);
}

void edge_cosines(AnyRows x, const std::string& dtype, GivenVector<double> lengths, Given<int64_t> lists,
                  Matrix<double> cosines, int threads) {
  const repsim::Source rows = source(x, dtype);
  const repsim::Lists all = checked_lists(lists);
  expect(rows.rows == all.n && static_cast<int64_t>(lengths.shape(0)) == all.n, "x: expected one row per list");
  expect(cosines.shape(0) == lists.shape(0) && cosines.shape(1) == lists.shape(1), "cosines: expected one per edge");
  nb::gil_scoped_release release;
  repsim::edge_cosines(rows, lengths.data(), all, cosines.data(), threads);
}

using Listed = std::tuple<AnyRows, std::string, GivenVector<double>, Given<int64_t>, Given<double>>;

repsim::ListedRows listed_rows(const Listed& side) {
  const auto& [x, dtype, lengths, lists, cosines] = side;
  const repsim::ListedRows all{source(x, dtype), lengths.data(), checked_lists(lists), cosines.data()};
  expect(all.rows.rows == all.lists.n && static_cast<int64_t>(lengths.shape(0)) == all.lists.n,
         "x: expected one row per list");
  expect(cosines.shape(0) == lists.shape(0) && cosines.shape(1) == lists.shape(1), "cosines: expected one per edge");
  return all;
}

int64_t second_order_cosines(const Listed& a, const Listed& b, Names names, Vector<double> sums,
                             std::optional<Vector<double>> terms, int threads) {
  const repsim::ListedRows left = listed_rows(a), right = listed_rows(b);
  expect(left.lists.n == right.lists.n && left.lists.k == right.lists.k, "lists: expected one shape");
  expect(!terms || static_cast<int64_t>(terms->shape(0)) == left.lists.n, "terms: expected one number per input");
  const int64_t relabellings = relabellings_of(names, left.lists.n, sums.shape(0));
  nb::gil_scoped_release release;
  return repsim::second_order_cosines(left, right, names ? names->data() : nullptr, relabellings, sums.data(),
                                      terms ? terms->data() : nullptr, threads);
}

}  // namespace

NB_MODULE(_core, m) {
  m.doc() = "The native operations of repsim. csrc/ops.h states each one.";
  m.attr("TILE") = repsim::kTile;
  m.attr("PANEL") = repsim::kPanel;
  m.attr("PRODUCT_BITS") = repsim::kProductBits;
  m.def("instruction_set", &repsim::instruction_set);
  m.def("cuda_available", &repsim::cuda::available);
  m.def("column_sums", &column_sums, "x"_a, "dtype"_a, "sums"_a.noconvert(), "threads"_a);
  m.def("squared_norms", &squared_norms, "x"_a, "dtype"_a, "shift"_a.noconvert().none(), "norms"_a.noconvert(),
        "threads"_a);
  m.def("pack_rows", &pack_rows, "x"_a, "dtype"_a, "shift"_a.noconvert().none(), "scale"_a.noconvert(),
        "offset"_a.noconvert().none(), "panels"_a.noconvert(), "halves"_a.noconvert(), "threads"_a);
  m.def("kernel_sums", &kernel_sums, "matrices"_a, "left"_a, "range"_a, "row_bits"_a, "row_sums"_a.noconvert(),
        "products"_a.noconvert(), "threads"_a);
  m.def("nearest", &nearest, "block_i"_a, "block_j"_a, "metric"_a, "range"_a, "symmetric"_a, "k"_a,
        "keys"_a.noconvert(), "counts"_a.noconvert(), "thresholds"_a.noconvert(), "threads"_a);
  m.def("rank_neighbours", &rank_neighbours, "x"_a, "x_dtype"_a, "base"_a, "base_dtype"_a, "metric"_a,
        "keys"_a.noconvert(), "counts"_a.noconvert(), "thresholds"_a.noconvert(), "halves"_a.noconvert(), "unit"_a,
        "longest"_a, "heavy"_a.noconvert(), "kept"_a, "first"_a, "indices"_a.noconvert(), "scores"_a.noconvert(),
        "threads"_a);

  m.def("first_bad_list", &first_bad_list, "lists"_a.noconvert(), "base_rows"_a, "excludes_self"_a, "threads"_a);
  m.def("transpose_lists", &transpose_lists, "lists"_a.noconvert(), "offsets"_a.noconvert(), "sources"_a.noconvert());
  m.def("list_statistics", &list_statistics, "a"_a.noconvert(), "offsets"_a.noconvert().none(), "b"_a.noconvert(),
        "statistic"_a, "names"_a.noconvert().none(), "sums"_a.noconvert(), "terms"_a.noconvert().none(), "threads"_a);
  m.def("masked_hsic", &masked_hsic, "a"_a.noconvert(), "a_weights"_a.noconvert(), "b"_a.noconvert(),
        "b_weights"_a.noconvert(), "names"_a.noconvert().none(), "hsic"_a.noconvert(), "threads"_a);
  m.def("edge_cosines", &edge_cosines, "x"_a, "dtype"_a, "lengths"_a.noconvert(), "lists"_a.noconvert(),
        "cosines"_a.noconvert(), "threads"_a);
  m.def("second_order_cosines", &second_order_cosines, "a"_a, "b"_a, "names"_a.noconvert().none(), "sums"_a.noconvert(),
        "terms"_a.noconvert().none(), "threads"_a);

  // Without CUDA these two say so, whatever they are given; cuda/ brings their typed arguments with it.
  m.def("cuda_kernel_sums", [](const nb::args&) {
    repsim::cuda::kernel_sums(nullptr, 0, 0, repsim::BlockRange{}, 0, 0, nullptr, nullptr, nullptr);
  });
  m.def("cuda_nearest", [](const nb::args&) {
    repsim::cuda::nearest(repsim::BlockPair{}, repsim::Metric::cosine, repsim::BlockRange{}, false, 0,
                          repsim::Candidates{}, nullptr);
  });
}
