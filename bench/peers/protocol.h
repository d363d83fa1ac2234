// What a program that serves a peer speaks on stdin and stdout; ts/cli/peers/server.ts is the other end.
//
// A message is a line of words, and after `tensor` and `times` the numbers that it announces, little-endian:
//   hello                    -> set NAME VALUE ..., ok VERSION
//   set NAME VALUE, tensor NAME EXTENT... + float32: what the next `open` is given
//   open                     -> ok
//   results                  -> tensor NAME EXTENT... + float32 ..., ok
//   time N                   -> times N + float64 (nanoseconds of each run), ok
// or, to any of the last four, error TEXT. The end of stdin ends the program.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace peer {

struct Tensor {
  std::vector<int64_t> shape;
  std::vector<float> data;

  int64_t size() const {
    int64_t n = 1;
    for (int64_t extent : shape) n *= extent;
    return n;
  }
};

struct Problem {
  std::map<std::string, std::string> settings;
  std::map<std::string, Tensor> tensors;

  const std::string& setting(const std::string& name) const {
    auto found = settings.find(name);
    if (found == settings.end()) throw std::runtime_error("no setting " + name);
    return found->second;
  }
  const Tensor& tensor(const std::string& name) const {
    auto found = tensors.find(name);
    if (found == tensors.end()) throw std::runtime_error("no tensor " + name);
    return found->second;
  }
  bool has(const std::string& name) const { return tensors.count(name) != 0; }
  int threads() const { return std::stoi(setting("threads")); }
  // How often the weights lie in memory: runs go through the copies in turn, so that none is in a cache.
  int copies() const { return settings.count("copies") ? std::stoi(setting("copies")) : 1; }
};

// A problem that is set up.
struct Run {
  virtual ~Run() = default;
  virtual void run() = 0;
  virtual std::map<std::string, Tensor> results() = 0;
  // After the last run of a request: threads that wait busily shall sleep, since others are timed next.
  virtual void rest() {}
};

struct Library {
  std::string version;
  std::map<std::string, std::string> properties;
  std::function<std::unique_ptr<Run>(const Problem&)> open;
};

class Server {
 public:
  // Libraries print: what they write to stdout goes to stderr, and the protocol keeps a descriptor of its own.
  Server() : out_(fdopen(dup(STDOUT_FILENO), "wb")) { dup2(STDERR_FILENO, STDOUT_FILENO); }

  int serve(Library library) {
    std::string line;
    while (readLine(line)) {
      try {
        answer(line, library);
      } catch (const std::exception& error) {
        say(std::string("error ") + error.what());
      }
    }
    return 0;
  }

  // The library is not there: said in answer to the first request, so that the reason arrives.
  int fail(const std::string& reason) {
    std::string line;
    while (readLine(line)) say("error " + reason);
    return 1;
  }

 private:
  void answer(const std::string& line, Library& library) {
    std::istringstream words(line);
    std::string verb, name;
    words >> verb;
    if (verb == "set") {
      std::string value;
      words >> name >> value;
      problem_.settings[name] = value;
    } else if (verb == "tensor") {
      words >> name;
      Tensor& tensor = problem_.tensors[name];
      tensor.shape.clear();
      for (int64_t extent; words >> extent;) tensor.shape.push_back(extent);
      tensor.data.resize(tensor.size());
      if (fread(tensor.data.data(), sizeof(float), tensor.data.size(), stdin) != tensor.data.size())
        throw std::runtime_error("the input ends inside of tensor " + name);
    } else if (verb == "hello") {
      for (const auto& [key, value] : library.properties) say("set " + key + " " + value);
      say("ok " + library.version);
    } else if (verb == "open") {
      run_.reset();
      run_ = library.open(problem_);
      problem_ = {};
      run_->run();  // allocates and faults in what the first run does
      run_->rest();
      say("ok");
    } else if (verb == "results") {
      opened().run();
      opened().rest();
      for (const auto& [key, tensor] : opened().results()) {
        std::ostringstream head;
        head << "tensor " << key;
        for (int64_t extent : tensor.shape) head << ' ' << extent;
        say(head.str());
        write(tensor.data);
      }
      say("ok");
    } else if (verb == "time") {
      size_t runs = 0;
      words >> runs;
      std::vector<double> nanoseconds(runs);
      for (double& each : nanoseconds) {
        const auto start = std::chrono::steady_clock::now();
        opened().run();
        each = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
      }
      opened().rest();
      say("times " + std::to_string(runs));
      write(nanoseconds);
      say("ok");
    } else {
      throw std::runtime_error("unknown request " + verb);
    }
  }

  Run& opened() {
    if (!run_) throw std::runtime_error("nothing is open");
    return *run_;
  }

  bool readLine(std::string& line) {
    line.clear();
    for (int c; (c = getc(stdin)) != EOF; line.push_back(static_cast<char>(c)))
      if (c == '\n') return true;
    return false;
  }

  void say(const std::string& line) {
    fwrite(line.data(), 1, line.size(), out_);
    putc('\n', out_);
    fflush(out_);
  }

  template <class T>
  void write(const std::vector<T>& numbers) {
    fwrite(numbers.data(), sizeof(T), numbers.size(), out_);
    fflush(out_);
  }

  FILE* out_;
  Problem problem_;
  std::unique_ptr<Run> run_;
};

}  // namespace peer
