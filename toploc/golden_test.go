package toploc

// What an implementation of SPEC.md must reproduce. Written down from this one,
// and from a second one in another language that was made after the text.
const (
	goldenStream     = 0x1db49a0c0308d980
	goldenProjection = "fffe020404000002908fcb37471ed35ebb69252d"
)

var goldenDraws = []int32{24760, 48153, 13233, 49889, 14542, 13473, 31822, 48512}
