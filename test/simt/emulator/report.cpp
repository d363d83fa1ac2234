#include "report.h"

#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <unordered_map>

#include "places.h"

namespace simt::emulator {

namespace {

struct Raw {
  Kind kind;
  std::string text;
  long times;
  bool named;
};

std::mutex mutex;
std::vector<Raw> raws;
std::map<std::pair<int, std::string>, size_t> known;
std::map<const void*, Statistics> statistics;

const char* kindName(Kind kind) {
  switch (kind) {
    case Kind::RACE: return "race";
    case Kind::UNINITIALISED: return "uninitialised";
    case Kind::OUT_OF_BOUNDS: return "out of bounds";
    case Kind::MISALIGNED: return "misaligned";
    case Kind::IN_FLIGHT: return "in flight";
    case Kind::PROXY: return "proxy";
    case Kind::SYNCHRONISATION: return "synchronisation";
  }
  return "";
}

// "void tile<0>(float*, int)" -> "tile<0>"
std::string shortName(std::string name) {
  const std::string nameless = "(anonymous namespace)::";
  for (size_t i; (i = name.find(nameless)) != std::string::npos;) name.erase(i, nameless.size());
  int depth = 0;
  for (size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '<') ++depth;
    if (name[i] == '>') --depth;
    if (name[i] == '(' && depth == 0) {
      name.resize(i);
      break;
    }
  }
  depth = 0;
  for (size_t i = name.size(); i-- > 0;) {
    if (name[i] == '>') ++depth;
    if (name[i] == '<') --depth;
    if (name[i] == ' ' && depth == 0) return name.substr(i + 1);
  }
  return name;
}

}  // namespace

void find(Kind kind, const std::string& key, const std::string& text) {
  const std::lock_guard<std::mutex> hold(mutex);
  const auto [at, isNew] = known.try_emplace({static_cast<int>(kind), key}, raws.size());
  if (isNew) {
    raws.push_back({kind, text, 1, false});
  } else {
    ++raws[at->second].times;
  }
}

void settleFindings(const void* kernel) {
  const std::lock_guard<std::mutex> hold(mutex);
  bool any = false;
  for (const Raw& raw : raws) any |= !raw.named;
  if (!any) return;
  std::string name = shortName(nameAddresses({kernel})[0].function);
  std::vector<std::string*> texts;
  for (Raw& raw : raws) {
    if (!raw.named) texts.push_back(&raw.text);
  }
  namePlaces(texts);
  for (Raw& raw : raws) {
    if (raw.named) continue;
    raw.named = true;
    raw.text = std::string(kindName(raw.kind)) + ": " + raw.text + (name.empty() ? "" : "\n      in kernel " + name);
    if (!options.quiet) std::fprintf(stderr, "simt: %s\n", raw.text.c_str());
  }
}

void add(Statistics& to, const Statistics& from) {
  to.launches += from.launches;
  to.blocks += from.blocks;
  to.mma += from.mma;
  to.wgmma += from.wgmma;
  to.ldmatrix += from.ldmatrix;
  to.shuffles += from.shuffles;
  to.barriers += from.barriers;
  to.asyncBytes += from.asyncBytes;
  to.bulkBytes += from.bulkBytes;
  to.sharedAccesses += from.sharedAccesses;
  to.wavefronts += from.wavefronts;
  to.idealWavefronts += from.idealWavefronts;
  to.globalAccesses += from.globalAccesses;
  to.loadSectors += from.loadSectors;
  to.storeSectors += from.storeSectors;
  to.idealSectors += from.idealSectors;
}

void addStatistics(const void* kernel, const Statistics& more) {
  const std::lock_guard<std::mutex> hold(mutex);
  add(statistics[kernel], more);
}

long Report::count(Kind kind) const {
  long n = 0;
  for (const Finding& finding : findings) n += finding.kind == kind ? finding.times : 0;
  return n;
}

Report report() {
  const std::lock_guard<std::mutex> hold(mutex);
  Report result;
  for (Raw& raw : raws) result.findings.push_back({raw.kind, std::move(raw.text), raw.times});
  result.kernels = std::move(statistics);
  raws.clear();
  known.clear();
  statistics.clear();
  return result;
}

}  // namespace simt::emulator
