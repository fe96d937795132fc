#include "text.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace repsim::ptx {

[[noreturn]] void refuse(const std::string& what, int line) {
  throw std::runtime_error("[ptx] line " + std::to_string(line) + ": " + what);
}

namespace {

bool is_space(char c) { return std::isspace(static_cast<unsigned char>(c)); }
bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%'; }

std::string without_comments(std::string text) {
  for (size_t at = 0; at + 1 < text.size(); ++at) {
    if (text.compare(at, 2, "//") == 0)
      while (at < text.size() && text[at] != '\n') text[at++] = ' ';
    else if (text.compare(at, 2, "/*") == 0)
      for (const size_t end = std::min(text.find("*/", at) + 2, text.size()); at < end; ++at)
        if (text[at] != '\n') text[at] = ' ';
  }
  return text;
}

}  // namespace

std::optional<Statement> Statements::next() {
  while (at_ < text_.size() && (is_space(text_[at_]) || text_[at_] == ';')) skip();
  if (at_ == text_.size()) return std::nullopt;
  const int line = line_;
  if (text_[at_] == '{') return skip(), Statement{Statement::open, "", line};
  if (text_[at_] == '}') return skip(), Statement{Statement::close, "", line};
  size_t end = at_;
  while (end < text_.size() && is_word(text_[end])) ++end;
  if (end < text_.size() && end > at_ && text_[end] == ':' && text_.compare(end, 2, "::") != 0) {
    Statement label{Statement::label, text_.substr(at_, end - at_), line};
    while (at_ <= end) skip();
    return label;
  }
  std::string statement;
  for (; at_ < text_.size() && text_[at_] != ';'; skip()) statement += is_space(text_[at_]) ? ' ' : text_[at_];
  return Statement{Statement::instruction, statement, line};
}

std::vector<std::string> operands_of(const std::string& text) {
  std::vector<std::string> operands;
  std::string one;
  int depth = 0;
  for (const char c : text) {
    if (c == '{' || c == '[' || c == '(') ++depth;
    if (c == '}' || c == ']' || c == ')') --depth;
    if (c == ',' && depth == 0)
      operands.push_back(std::exchange(one, ""));
    else if (!is_space(c))
      one += c;
  }
  if (!one.empty()) operands.push_back(one);
  return operands;
}

std::vector<std::string> cut(const std::string& text, char at) {
  std::vector<std::string> parts(1);
  for (const char c : text)
    if (c == at)
      parts.emplace_back();
    else
      parts.back() += c;
  return parts;
}

std::string inside(const std::string& text, int line) {
  if (text.size() < 2) refuse("expected brackets, got " + text, line);
  return text.substr(1, text.size() - 2);
}

std::optional<Type> type_of(const std::string& word) {
  static const std::map<std::string, Type> types = {
      {"pred", {Kind::predicate, 1}}, {"b8", {Kind::bits, 1}},  {"b16", {Kind::bits, 2}}, {"b32", {Kind::bits, 4}},
      {"b64", {Kind::bits, 8}},       {"u8", {Kind::uint, 1}},  {"u16", {Kind::uint, 2}}, {"u32", {Kind::uint, 4}},
      {"u64", {Kind::uint, 8}},       {"s8", {Kind::sint, 1}},  {"s16", {Kind::sint, 2}}, {"s32", {Kind::sint, 4}},
      {"s64", {Kind::sint, 8}},       {"f32", {Kind::real, 4}}, {"f64", {Kind::real, 8}}};
  const auto found = types.find(word);
  return found == types.end() ? std::nullopt : std::optional(found->second);
}

uint64_t number_after(const std::string& text, const std::string& word, uint64_t otherwise) {
  const size_t at = text.find(word), digits = text.find_first_not_of(' ', std::min(at, text.size()) + word.size());
  const bool there = at != std::string::npos && digits < text.size() && std::isdigit(text[digits]);
  return there ? std::stoull(text.substr(digits)) : otherwise;
}

std::string last_word(std::string declaration) {
  if (const size_t size = declaration.find('['); size != std::string::npos) declaration.resize(size);
  while (!declaration.empty() && is_space(declaration.back())) declaration.pop_back();
  const size_t begin = declaration.find_last_of(" \t");
  return begin == std::string::npos ? declaration : declaration.substr(begin + 1);
}

namespace {

std::vector<std::string> declared_in(const std::string& list) {
  return list.empty() ? std::vector<std::string>{} : cut(list, ',');
}

// What lies outside of functions. Directives at the top end without a semicolon, so the text is read by its words.
class Outline {
 public:
  explicit Outline(const std::string& text) { module_.text = without_comments(text); }

  Module read() {
    const std::string& text = module_.text;
    while (at_ < text.size()) {
      if (word(".entry") || word(".func"))
        function();
      else if (word(".extern") || word(".shared") || word(".global"))
        variable();
      else
        step();
    }
    return std::move(module_);
  }

 private:
  bool word(const char* name) const {
    const size_t size = std::strlen(name);
    return module_.text.compare(at_, size, name) == 0 && !is_word(module_.text[at_ + size]);
  }
  void step() { line_ += module_.text[at_++] == '\n'; }

  std::string list() {  // between the parentheses that begin next
    std::string found;
    while (module_.text[at_] != '(') step();
    for (step(); module_.text[at_] != ')'; step()) found += is_space(module_.text[at_]) ? ' ' : module_.text[at_];
    step();
    return found;
  }

  void blanks() {
    while (is_space(module_.text[at_])) step();
  }

  void function() {
    Function made;
    made.entry = word(".entry");
    at_ += made.entry ? 6 : 5;
    blanks();
    if (module_.text[at_] == '(') made.results = declared_in(list()), blanks();
    for (; is_word(module_.text[at_]); step()) made.name += module_.text[at_];
    blanks();
    if (module_.text[at_] == '(') made.parameters = declared_in(list());
    while (module_.text[at_] != '{' && module_.text[at_] != ';') step();
    if (module_.text[at_] == ';') return;  // declared, not written
    step();
    made.body = at_;
    made.line = line_;
    for (int depth = 1; depth > 0; step()) {
      if (word(".shared") && is_space(module_.text[at_ - 1])) {
        const std::string found = declaration();
        made.shared[last_word(found)] = found;
      }
      depth += (module_.text[at_] == '{') - (module_.text[at_] == '}');
    }
    module_.functions[made.name] = made;
  }

  std::string declaration() {  // up to the semicolon
    std::string found;
    for (int depth = 0; module_.text[at_] != ';' || depth > 0; step()) {
      depth += (module_.text[at_] == '{') - (module_.text[at_] == '}');
      found += is_space(module_.text[at_]) ? ' ' : module_.text[at_];
    }
    return found;
  }

  void variable() {
    const std::string found = declaration();
    if (found.find(".shared") != std::string::npos) module_.shared[last_word(found)] = found;
  }

  Module module_;
  size_t at_ = 0;
  int line_ = 1;
};

}  // namespace

Module outline(const std::string& text) { return Outline(text).read(); }

}  // namespace repsim::ptx
