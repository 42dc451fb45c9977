// How fast memory is read: the sum of a vector that no cache holds. A request is its
// MiB, the number of threads and seconds.
#include <pthread.h>

#include "peer.h"

static float *data;
static size_t part;
static volatile float sink;

static void *sum(void *at) {
	const float *p = at;
	float s[64] = {0};
	for (size_t i = 0; i + 64 <= part; i += 64)
		for (int j = 0; j < 64; j++) s[j] += p[i + j];
	for (int j = 1; j < 64; j++) s[0] += s[j];
	sink = s[0];
	return 0;
}

static void all(int threads) {
	pthread_t t[256];
	for (int i = 1; i < threads; i++) pthread_create(&t[i], 0, sum, data + i * part);
	sum(data);
	for (int i = 1; i < threads; i++) pthread_join(t[i], 0);
}

int main(void) {
	size_t mib, had = 0;
	int threads;
	double secs;
	while (scanf("%zu %d %lf", &mib, &threads, &secs) == 3 && threads >= 1 && threads <= 256) {
		if (mib != had) data = values(mib << 18);
		had = mib;
		part = (mib << 18) / threads;
		TIMED(secs, all(threads));
	}
	return 0;
}
