// The most that this processor multiplies and adds: 24 independent chains of
// fused multiply-adds that touch no memory. `<512|256|bf16> seconds`, answered
// by the seconds of 48·lanes (bf16: 96·lanes) operations times a million.
#include "peer.h"
#include <immintrin.h>

#define CHAINS 24
#define RUN(T, zero, fma)                                              \
	T s[CHAINS];                                                   \
	for (int i = 0; i < CHAINS; i++) s[i] = zero;                  \
	for (long r = 0; r < 1000000; r++) {                           \
		_Pragma("GCC unroll 24") for (int i = 0; i < CHAINS; i++) s[i] = fma; \
		__asm__ volatile("");                                  \
	}                                                              \
	T t = zero;                                                    \
	for (int i = 0; i < CHAINS; i++) t = s[i] + t;                 \
	sink = *(float *)&t;

static volatile float sink;
__attribute__((target("avx512f"))) static void f512(void) {
	__m512 x = _mm512_set1_ps(sink), y = _mm512_set1_ps(0.5f);
	RUN(__m512, _mm512_setzero_ps(), _mm512_fmadd_ps(x, y, s[i]))
}
__attribute__((target("avx2,fma"))) static void f256(void) {
	__m256 x = _mm256_set1_ps(sink), y = _mm256_set1_ps(0.5f);
	// Twelve chains are what sixteen registers hold.
	__m256 s[12];
	for (int i = 0; i < 12; i++) s[i] = _mm256_setzero_ps();
	for (long r = 0; r < 2000000; r++) {
		_Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) s[i] = _mm256_fmadd_ps(x, y, s[i]);
		__asm__ volatile("");
	}
	__m256 t = s[0];
	for (int i = 1; i < 12; i++) t += s[i];
	sink = t[0];
}
__attribute__((target("avx512f,avx512bf16"))) static void b512(void) {
	__m512bh x = (__m512bh)_mm512_set1_epi32(0x3c003c00), y = x;
	RUN(__m512, _mm512_setzero_ps(), _mm512_dpbf16_ps(s[i], x, y))
}

int main(void) {
	char what[8];
	double secs;
	while (scanf("%7s %lf", what, &secs) == 2) {
		if (!strcmp(what, "512")) TIMED(secs, f512());
		else if (!strcmp(what, "256")) TIMED(secs, f256());
		else TIMED(secs, b512());
	}
	return 0;
}
