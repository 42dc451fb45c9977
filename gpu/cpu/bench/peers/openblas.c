// SGEMM of OpenBLAS: `<NN|NT|TN> m n k f32 seconds`. The kernels are chosen by
// OPENBLAS_CORETYPE, the threads by OPENBLAS_NUM_THREADS.
#include "peer.h"
#include <cblas.h>

int main(void) {
	char l[8], type[8];
	int m, n, k;
	double secs;
	while (scanf("%7s %d %d %d %7s %lf", l, &m, &n, &k, type, &secs) == 6) {
		float *a = values((size_t)m * k), *b = values((size_t)k * n), *c = values((size_t)m * n);
		int ta = l[0] == 'T', tb = l[1] == 'T';
		TIMED(secs, cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, m, n, k, 1, a,
					ta ? m : k, b, tb ? k : n, 0, c, n));
		free(a), free(b), free(c);
	}
	return 0;
}
