// What Python calls the values of the operations, and how it nests kernels: for both modules.
#pragma once

#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "ops.h"

namespace repsim {

template <class Value>
struct Name {
  const char* name;
  Value value;
};

constexpr Name<DType> kDTypes[] = {{"float16", DType::float16},
                                   {"bfloat16", DType::bfloat16},
                                   {"float32", DType::float32},
                                   {"float64", DType::float64}};
constexpr Name<Kernel> kKernels[] = {{"linear", Kernel::linear},
                                     {"polynomial", Kernel::polynomial},
                                     {"rbf", Kernel::rbf},
                                     {"laplacian_l2", Kernel::laplacian_l2},
                                     {"laplacian_l1", Kernel::laplacian_l1}};
constexpr Name<Distance> kDistances[] = {{"euclidean", Distance::euclidean}, {"manhattan", Distance::manhattan}};
constexpr Name<Metric> kMetrics[] = {
    {"cosine", Metric::cosine}, {"inner_product", Metric::inner_product}, {"euclidean", Metric::euclidean}};
constexpr Name<ListStatistic> kListStatistics[] = {{"shared", ListStatistic::shared},
                                                   {"meets", ListStatistic::meets},
                                                   {"jaccard", ListStatistic::jaccard},
                                                   {"ranks", ListStatistic::ranks},
                                                   {"jaccard_ranks", ListStatistic::jaccard_ranks},
                                                   {"common_subsequence", ListStatistic::common_subsequence},
                                                   {"edit_distance", ListStatistic::edit_distance}};

template <class Value, size_t count>
Value named(const char* what, const Name<Value> (&known)[count], const std::string& name) {
  for (const auto& one : known)
    if (name == one.name) return one.value;
  std::string expected = std::string(what) + ": expected " + known[0].name;
  for (size_t at = 1; at < count; ++at) expected += (at + 1 < count ? ", " : " or ") + std::string(known[at].name);
  throw std::invalid_argument(expected + ", got " + name);
}

// (factors, shift, weight); terms.
template <class Factor>
using TermTuple = std::tuple<std::vector<Factor>, float, float>;
template <class Factor>
using MatrixTuples = std::vector<std::vector<TermTuple<Factor>>>;

// Terms over factors, and matrices over terms, which lie one after the other as they are given.
template <class Given, class Factor, class Term, class Matrix>
void nest(const MatrixTuples<Given>& given, const std::vector<Factor>& factors, std::vector<Term>& terms,
          std::vector<Matrix>& matrices) {
  size_t next = 0;
  for (const auto& of_matrix : given)
    for (const auto& [own, shift, weight] : of_matrix) {
      terms.push_back({factors.data() + next, static_cast<int64_t>(own.size()), shift, weight});
      next += own.size();
    }
  next = 0;
  for (const auto& of_matrix : given) {
    matrices.push_back({terms.data() + next, static_cast<int64_t>(of_matrix.size())});
    next += of_matrix.size();
  }
}

}  // namespace repsim
