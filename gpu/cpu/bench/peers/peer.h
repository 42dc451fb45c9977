// What the peers of `make bench-engine` have in common: they read one request
// a line, run it again and again for a while, and answer with the mean wall
// and processor seconds of a call. The program that asks takes turns among
// them, so that all see the same machine.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(clockid_t c) {
	struct timespec t;
	clock_gettime(c, &t);
	return t.tv_sec + 1e-9 * t.tv_nsec;
}

static inline float *values(size_t n) {
	float *p;
	if (posix_memalign((void **)&p, 64, 4 * n + 64)) exit(1);
	unsigned s = 1;
	for (size_t i = 0; i < n; i++) {
		s = s * 1664525 + 1013904223;
		p[i] = (float)(s >> 8) / (1 << 24) - 0.5f;
	}
	return p;
}

// TIMED runs a statement until it has used secs of processor time, and prints
// the means, after some milliseconds in which threads find their cores. It looks at the clock, which takes a system call, each millisecond only.
#define TIMED(secs, ...)                                                                      \
	do {                                                                                  \
		double begun_ = now(CLOCK_MONOTONIC), warm_;                                  \
		long times_ = 0;                                                              \
		do {                                                                          \
			__VA_ARGS__;                                                          \
			times_++;                                                             \
		} while ((warm_ = now(CLOCK_MONOTONIC) - begun_) < 20e-3);                    \
		long batch_ = 1 + (long)(1e-3 * times_ / warm_);                              \
		times_ = 0;                                                                   \
		double wall_ = now(CLOCK_MONOTONIC), cpu_ = now(CLOCK_PROCESS_CPUTIME_ID);    \
		do {                                                                          \
			for (long i_ = 0; i_ < batch_; i_++) { __VA_ARGS__; }                 \
			times_ += batch_;                                                     \
		} while (now(CLOCK_PROCESS_CPUTIME_ID) - cpu_ < (secs));                      \
		printf("%.9g %.9g\n", (now(CLOCK_MONOTONIC) - wall_) / times_,                \
		       (now(CLOCK_PROCESS_CPUTIME_ID) - cpu_) / times_);                      \
		fflush(stdout);                                                               \
	} while (0)
