#include "places.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <cstdio>
#include <cstring>
#include <map>

namespace simt::emulator {

namespace {

// Of placeOf: open addressing, keyed by an address or by a hash of a site.
struct Numbers {
  std::vector<uint64_t> keys = std::vector<uint64_t>(1024);
  std::vector<uint32_t> values = std::vector<uint32_t>(1024);
  std::vector<Place> places = std::vector<Place>(1);

  static size_t hash(uint64_t key) { return static_cast<size_t>(key * 0x9e3779b97f4a7c15u >> 40); }

  uint32_t find(uint64_t key, const Place& place) {
    for (size_t i = hash(key);; ++i) {
      i &= keys.size() - 1;
      if (keys[i] == key) return values[i];
      if (keys[i] == 0) {
        if (places.size() * 2 > keys.size()) {
          grow();
          return find(key, place);
        }
        keys[i] = key;
        values[i] = static_cast<uint32_t>(places.size());
        places.push_back(place);
        return values[i];
      }
    }
  }

  void grow() {
    std::vector<uint64_t> oldKeys(keys.size() * 2);
    std::vector<uint32_t> oldValues(keys.size() * 2);
    oldKeys.swap(keys);
    oldValues.swap(values);
    for (size_t j = 0; j < oldKeys.size(); ++j) {
      if (!oldKeys[j]) continue;
      size_t i = hash(oldKeys[j]) & (keys.size() - 1);
      while (keys[i]) i = (i + 1) & (keys.size() - 1);
      keys[i] = oldKeys[j];
      values[i] = oldValues[j];
    }
  }
};

Numbers& numbers() {
  static Numbers all;
  return all;
}

const char* baseName(const char* path) {
  const char* slash = std::strrchr(path, '/');
  return slash ? slash + 1 : path;
}

std::string nameOf(Site site, const char* what) {
  return (what ? std::string(what) + " at " : "") + baseName(site.file) + ":" + std::to_string(site.line);
}

std::string capture(const std::string& command) {
  std::string output;
  if (FILE* pipe = popen(command.c_str(), "r")) {
    char buffer[4096];
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) output.append(buffer, n);
    pclose(pipe);
  }
  return output;
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t i = 0; i < text.size();) {
    const size_t end = text.find('\n', i);
    lines.push_back(text.substr(i, end - i));
    i = end == std::string::npos ? text.size() : end + 1;
  }
  return lines;
}

// "/a/b.cuh:12 (discriminator 3)" -> "b.cuh:12"
std::string tidy(const std::string& line) {
  const size_t space = line.find(' ');
  return baseName(line.substr(0, space).c_str());
}

// Loads and stores of the interface are inlined: the caller's line is meant.
bool ofInterface(const std::string& line) { return line.compare(0, 13, "emulator.cuh:") == 0; }

}  // namespace

uint32_t placeOf(const void* returnAddress) {
  return numbers().find(reinterpret_cast<uint64_t>(returnAddress), {returnAddress, {}, nullptr});
}

uint32_t placeOf(Site site, const char* what) {
  const uint64_t key = (reinterpret_cast<uint64_t>(site.file) * 31 + reinterpret_cast<uint64_t>(what)) * 0x9e3779b1u +
                       static_cast<uint64_t>(site.line);
  return numbers().find(key | uint64_t(1) << 63, {nullptr, site, what});
}

const Place& placeAt(uint32_t number) { return numbers().places[number]; }

std::string mark(uint32_t place) {
  const Place& at = placeAt(place);
  return at.address ? "\x01" + std::to_string(place) + "\x02" : nameOf(at.site, at.what);
}

std::string mark(Site site, const char* what) { return nameOf(site, what); }

void namePlaces(const std::vector<std::string*>& texts) {
  std::map<uint32_t, std::string> names;
  for (const std::string* text : texts) {
    for (size_t i = 0; (i = text->find('\x01', i)) != std::string::npos; ++i) {
      names[static_cast<uint32_t>(std::stoul(text->substr(i + 1)))];
    }
  }
  std::vector<const void*> addresses;
  for (const auto& entry : names) {
    // A return address belongs to the instruction after the call.
    addresses.push_back(static_cast<const char*>(placeAt(entry.first).address) - 1);
  }
  const std::vector<Named> named = nameAddresses(addresses);
  size_t n = 0;
  for (auto& entry : names) entry.second = named[n++].line;
  for (std::string* text : texts) {
    for (size_t i; (i = text->find('\x01')) != std::string::npos;) {
      const size_t end = text->find('\x02', i);
      const auto place = static_cast<uint32_t>(std::stoul(text->substr(i + 1)));
      text->replace(i, end + 1 - i, "code at " + names[place]);
    }
  }
}

std::vector<Named> nameAddresses(const std::vector<const void*>& addresses) {
  std::vector<Named> named(addresses.size());
  std::map<std::string, std::vector<size_t>> byFile;
  std::vector<size_t> offsets(addresses.size());
  for (size_t i = 0; i < addresses.size(); ++i) {
    Dl_info info;
    if (!dladdr(addresses[i], &info) || !info.dli_fname) continue;
    const auto* header = static_cast<const ElfW(Ehdr)*>(info.dli_fbase);
    const auto address = reinterpret_cast<size_t>(addresses[i]);
    offsets[i] = header->e_type == ET_EXEC ? address : address - reinterpret_cast<size_t>(info.dli_fbase);
    byFile[info.dli_fname].push_back(i);
    char text[64];
    std::snprintf(text, sizeof text, "%s+%#zx", baseName(info.dli_fname), offsets[i]);
    named[i].line = text;
  }
  for (const auto& [file, indices] : byFile) {
    std::string path = file;
    if (path.find('/') == std::string::npos) path = "/proc/self/exe";
    char resolved[4096];
    if (path == "/proc/self/exe" && realpath(path.c_str(), resolved)) path = resolved;
    std::string command = "addr2line -a -i -f -C -e '" + path + "'";
    for (const size_t i : indices) {
      char text[32];
      std::snprintf(text, sizeof text, " %#zx", offsets[i]);
      command += text;
    }
    // For each address: itself, then pairs of a function and a line, the innermost inlined one first.
    const std::vector<std::string> lines = split(capture(command + " 2>/dev/null"));
    size_t line = 0;
    for (const size_t i : indices) {
      while (line < lines.size() && lines[line].compare(0, 2, "0x") != 0) ++line;
      bool found = false;
      for (++line; line + 1 < lines.size() && lines[line].compare(0, 2, "0x") != 0; line += 2) {
        const std::string where = tidy(lines[line + 1]);
        if (lines[line] != "??") named[i].function = lines[line];
        if (found || where[0] == '?' || ofInterface(where)) continue;
        named[i].line = where;
        found = true;
      }
    }
  }
  return named;
}

}  // namespace simt::emulator
