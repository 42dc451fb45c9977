// Package hf reads and writes the files of a Hugging Face model directory:
// config.json of a Llama, model.safetensors and tokenizer.json.
//
// It does no I/O of its own: functions take and give bytes, or read and write where they
// are told, a part at a time where a file may be larger than the memory. Every decoder is
// bounded before it allocates, so that the files may come from strangers.
//
// # The flat parameter vector
//
// Everywhere in Shoal a model's parameters are one []float32: the tensors of
// Config.Tensors, which are sorted by the bytes of their names, one after
// another, each row-major. Weights, gradients, momentum and deltas share that
// layout.
//
// # Layout of the Llama tensors
//
// With D = hidden_size, F = intermediate_size, V = vocab_size, H query heads, K
// key/value heads and d = head_dim, rows first:
//
//	model.embed_tokens.weight                         (V, D)
//	model.layers.N.input_layernorm.weight             (D)
//	model.layers.N.self_attn.{q,k,v}_proj.weight      (H·d, D), (K·d, D), (K·d, D)
//	model.layers.N.self_attn.o_proj.weight            (D, H·d)
//	model.layers.N.post_attention_layernorm.weight    (D)
//	model.layers.N.mlp.{gate,up}_proj.weight          (F, D)
//	model.layers.N.mlp.down_proj.weight               (D, F)
//	model.norm.weight                                 (D)
//	lm_head.weight                                    (V, D), absent when tied
//
// Some have more: q_norm.weight and k_norm.weight (d) in Qwen 3, and a .bias beside
// the .weight of projections (Config.QKVBias, OBias, MLPBias).
//
// Query and key rows are in Hugging Face's order for RoPE: component i of a
// head is rotated with component i + d/2.
package hf
