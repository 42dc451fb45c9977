// Products of oneDNN: `<NN|NT|TN> m n k <f32|bf16> seconds`, bf16 with a
// float32 result. Threads are OMP_NUM_THREADS. For f32 the better of its
// matmul primitive and its sgemm is what counts: argument "sgemm" chooses the
// latter.
#include "peer.h"
#include <oneapi/dnnl/dnnl.h>

#define CHECK(x)                                                         \
	do {                                                             \
		dnnl_status_t status = (x);                                   \
		if (status != dnnl_success) {                                 \
			fprintf(stderr, "onednn: %s: %d\n", #x, (int)status); \
			exit(1);                                         \
		}                                                        \
	} while (0)

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t md_t;
static md_t desc(int r, int c, dnnl_data_type_t t, int transposed) {
	md_t d;
	dnnl_dims_t dims = {r, c}, strides = {transposed ? 1 : c, transposed ? r : 1};
	CHECK(dnnl_memory_desc_create_with_strides(&d, 2, dims, t, strides));
	return d;
}
#define ADDR(x) (x)
#else
typedef dnnl_memory_desc_t md_t;
static md_t desc(int r, int c, dnnl_data_type_t t, int transposed) {
	md_t d;
	dnnl_dims_t dims = {r, c}, strides = {transposed ? 1 : c, transposed ? r : 1};
	CHECK(dnnl_memory_desc_init_by_strides(&d, 2, dims, t, strides));
	return d;
}
#define ADDR(x) (&(x))
#endif

static unsigned short *narrow(float *x, size_t n) {
	unsigned short *y = malloc(2 * n + 64);
	for (size_t i = 0; i < n; i++) {
		unsigned u;
		memcpy(&u, x + i, 4);
		y[i] = (u + 0x7fff + (u >> 16 & 1)) >> 16;
	}
	return y;
}

int main(int argc, char **argv) {
	char l[8], type[8];
	int m, n, k;
	double secs;
	int sgemm = argc > 1 && !strcmp(argv[1], "sgemm");
	dnnl_engine_t e;
	dnnl_stream_t s;
	CHECK(dnnl_engine_create(&e, dnnl_cpu, 0));
	CHECK(dnnl_stream_create(&s, e, dnnl_stream_default_flags));
	while (scanf("%7s %d %d %d %7s %lf", l, &m, &n, &k, type, &secs) == 6) {
		float *a = values((size_t)m * k), *b = values((size_t)k * n), *c = values((size_t)m * n);
		int ta = l[0] == 'T', tb = l[1] == 'T', bf16 = !strcmp(type, "bf16");
		if (sgemm) {
			TIMED(secs, dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k, 1, a, ta ? m : k, b, tb ? k : n, 0, c, n));
			free(a), free(b), free(c);
			continue;
		}
		dnnl_data_type_t t = bf16 ? dnnl_bf16 : dnnl_f32;
		void *pa = a, *pb = b;
		if (bf16) pa = narrow(a, (size_t)m * k), pb = narrow(b, (size_t)k * n);
		md_t da = desc(m, k, t, ta), db = desc(k, n, t, tb), dc = desc(m, n, dnnl_f32, 0);
		dnnl_primitive_desc_t pd;
#if DNNL_VERSION_MAJOR >= 3
		CHECK(dnnl_matmul_primitive_desc_create(&pd, e, da, db, NULL, dc, NULL));
#else
		dnnl_matmul_desc_t d;
		CHECK(dnnl_matmul_desc_init(&d, &da, &db, NULL, &dc));
		CHECK(dnnl_primitive_desc_create(&pd, &d, NULL, e, NULL));
#endif
		dnnl_primitive_t p;
		CHECK(dnnl_primitive_create(&p, pd));
		dnnl_memory_t ma, mb, mc;
		CHECK(dnnl_memory_create(&ma, ADDR(da), e, pa));
		CHECK(dnnl_memory_create(&mb, ADDR(db), e, pb));
		CHECK(dnnl_memory_create(&mc, ADDR(dc), e, c));
		dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, ma}, {DNNL_ARG_WEIGHTS, mb}, {DNNL_ARG_DST, mc}};
		TIMED(secs, CHECK(dnnl_primitive_execute(p, s, 3, args)); CHECK(dnnl_stream_wait(s)));
		dnnl_primitive_destroy(p);
		dnnl_primitive_desc_destroy(pd);
		dnnl_memory_destroy(ma), dnnl_memory_destroy(mb), dnnl_memory_destroy(mc);
		if (bf16) free(pa), free(pb);
		free(a), free(b), free(c);
	}
	return 0;
}
