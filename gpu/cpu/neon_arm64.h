// What Go's assembler has no name for. Operands are numbers of registers; vectors are of
// four float32.
#define FMLA(d, n, m, i) WORD $(0x4F801000 | ((i)&1)<<21 | ((i)>>1)<<11 | (m)<<16 | (n)<<5 | (d)) // d += n · m[i]
#define FMLAV(d, n, m) WORD $(0x4E20CC00 | (m)<<16 | (n)<<5 | (d)) // d += n · m
#define FMLSV(d, n, m) WORD $(0x4EA0CC00 | (m)<<16 | (n)<<5 | (d)) // d -= n · m
#define FMUL(d, n, m) WORD $(0x6E20DC00 | (m)<<16 | (n)<<5 | (d))
#define FADD(d, n, m) WORD $(0x4E20D400 | (m)<<16 | (n)<<5 | (d))
#define FSUB(d, n, m) WORD $(0x4EA0D400 | (m)<<16 | (n)<<5 | (d)) // d = n - m
#define FDIV(d, n, m) WORD $(0x6E20FC00 | (m)<<16 | (n)<<5 | (d)) // d = n / m
#define FMIN(d, n, m) WORD $(0x4EA0F400 | (m)<<16 | (n)<<5 | (d)) // NaN of NaN
#define FMAXNM(d, n, m) WORD $(0x4E20C400 | (m)<<16 | (n)<<5 | (d)) // the other of NaN and another
#define FMAXNMV(d, n) WORD $(0x6E30C800 | (n)<<5 | (d)) // of the four
#define FCMGT(d, n, m) WORD $(0x6EA0E400 | (m)<<16 | (n)<<5 | (d)) // n > m
#define FNEG(d, n) WORD $(0x6EA0F800 | (n)<<5 | (d))
#define FRINTN(d, n) WORD $(0x4E218800 | (n)<<5 | (d)) // to the nearest integer, ties to even
#define FCVTNS(d, n) WORD $(0x4E21A800 | (n)<<5 | (d)) // the same as int32
#define IADD(d, n, m) WORD $(0x4EA08400 | (m)<<16 | (n)<<5 | (d))
#define ISUB(d, n, m) WORD $(0x6EA08400 | (m)<<16 | (n)<<5 | (d)) // d = n - m
#define HALVE(d, n) WORD $(0x4F3F0400 | (n)<<5 | (d)) // int32, down
#define EXPONENT(d, n) WORD $(0x4F375400 | (n)<<5 | (d)) // d = n << 23
#define BIC(d, n, m) WORD $(0x4E601C00 | (m)<<16 | (n)<<5 | (d)) // d = n and not m
#define MOVE(d, n) WORD $(0x4EA01C00 | (n)<<16 | (n)<<5 | (d))

// What the kernels of decoding are called with; for bf16, the mask of a value's upper half.
#define ARGUMENTS \
	MOVD k+0(FP), R0; \
	MOVD a+8(FP), R1; \
	MOVD sa+16(FP), R5; \
	MOVD b+24(FP), R2; \
	MOVD c+32(FP), R3; \
	MOVD sc+40(FP), R4; \
	MOVBU acc+48(FP), R6
#define HIGH \
	MOVW $0xffff0000, R11; \
	VDUP R11, V31.S4
