// The text of a PTX module: its functions and shared variables, and the statements of a body.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "program.h"

namespace repsim::ptx {

[[noreturn]] void refuse(const std::string& what, int line);

struct Statement {
  enum { instruction, label, open, close } kind;
  std::string text;
  int line;
};

// The statements of a text from `at`, up to the brace that closes what is open there.
class Statements {
 public:
  Statements(const std::string& text, size_t at, int line) : text_(text), at_(at), line_(line) {}
  std::optional<Statement> next();

 private:
  void skip() { line_ += text_[at_++] == '\n'; }

  const std::string& text_;
  size_t at_;
  int line_;
};

struct Function {
  std::string name;
  bool entry = false;
  std::vector<std::string> parameters, results;  // as declared
  std::map<std::string, std::string> shared;     // declarations of variables inside
  size_t body = 0;                               // in the text
  int line = 0;
};

struct Module {
  std::string text;
  std::map<std::string, Function> functions;
  std::map<std::string, std::string> shared;  // declarations of variables
};

// What lies outside of functions, and where these are.
Module outline(const std::string& text);

// A list cut at commas that are not inside of brackets, without blanks.
std::vector<std::string> operands_of(const std::string& text);

std::vector<std::string> cut(const std::string& text, char at);

// What brackets enclose.
std::string inside(const std::string& text, int line);

// Of a word like u32.
std::optional<Type> type_of(const std::string& word);

// The number after a word, as of ".align 16"; otherwise another one.
uint64_t number_after(const std::string& text, const std::string& word, uint64_t otherwise);

// The name that a declaration ends in.
std::string last_word(std::string declaration);

}  // namespace repsim::ptx
