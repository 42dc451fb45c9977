// llama2.c, whose run.c (RUN_C) this includes without its main: arguments "dim layers heads
// intermediate vocab sequence", and asked for n tokens a line, the seconds of one, by the
// clock and by the processor.
#define TESTING
#include RUN_C

#include "peer.h"

int main(int argc, char **argv) {
	Transformer t;
	if (argc != 7) return 2;
	t.config = (Config){.dim = atoi(argv[1]), .n_layers = atoi(argv[2]), .n_heads = atoi(argv[3]), .n_kv_heads = atoi(argv[3]),
		.hidden_dim = atoi(argv[4]), .vocab_size = atoi(argv[5]), .seq_len = atoi(argv[6])};
	Config *c = &t.config;
	size_t dim = c->dim, layer = 4 * dim * dim + 3 * dim * c->hidden_dim + 2 * dim;
	float *w = values(c->vocab_size * dim + c->n_layers * layer + dim);
	for (size_t i = 0; i < c->vocab_size * dim + c->n_layers * layer + dim; i++) w[i] /= 8;
	memory_map_weights(&t.weights, c, w, 1);
	malloc_run_state(&t.state, c);
	for (int n; scanf("%d", &n) == 1 && n > 0 && n < c->seq_len;) {
		int token = sample_argmax(forward(&t, 1, 0), c->vocab_size);
		double wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
		for (int i = 1; i <= n; i++) token = sample_argmax(forward(&t, token, i), c->vocab_size);
		printf("%.9g %.9g\n", (now(CLOCK_MONOTONIC) - wall) / n, (now(CLOCK_PROCESS_CPUTIME_ID) - cpu) / n);
		fflush(stdout);
	}
	return 0;
}
