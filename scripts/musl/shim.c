// What glibc's libstdc++ and libgcc_s ask of glibc and musl does not have, so that a program for a musl system with
// libstdc++ runs on Debian's musl (scripts/runtimes.cjs). For tests alone.
#define _GNU_SOURCE
#include <locale.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

char __libc_single_threaded = 0;
struct {
  unsigned vendor, type, subtype, features[1];
} __cpu_model;

int __cpu_indicator_init(void) { return 0; }

int _dl_find_object(void* pc, void* result) { return -1; }  // then libgcc asks dl_iterate_phdr

uint32_t arc4random(void) {
  uint32_t value;
  getrandom(&value, sizeof value, 0);
  return value;
}

size_t __strftime_l(char* s, size_t n, const char* format, const struct tm* t, locale_t locale) {
  return strftime_l(s, n, format, t, locale);
}

struct Destructor {
  void (*call)(void*);
  void* object;
  struct Destructor* next;
};

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void destroy(void* list) {
  for (struct Destructor* d = list; d;) {
    struct Destructor* next = d->next;
    d->call(d->object);
    free(d);
    d = next;
  }
}

static void makeKey(void) { pthread_key_create(&key, destroy); }

int __cxa_thread_atexit_impl(void (*call)(void*), void* object, void* library) {
  pthread_once(&once, makeKey);
  struct Destructor* d = malloc(sizeof *d);
  d->call = call;
  d->object = object;
  d->next = pthread_getspecific(key);
  pthread_setspecific(key, d);
  return 0;
}
