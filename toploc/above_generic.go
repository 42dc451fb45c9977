package toploc

func above(a []uint16, floor uint16) int { return aboveGeneric(a, floor) }
