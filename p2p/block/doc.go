// Package block keeps a peer's content-addressed blocks on disk and fetches
// those that it lacks from other peers.
//
// # Store
//
// A Store is one directory:
//
//	DIR/blocks/   flatfs: one file a block, named by the block's sha2-256
//	DIR/meta.db   bbolt: sizes and last use of blocks; pins by name
//
// Blocks are the truth, the database is not: sizes can be read from the files
// again, so a block is durable as soon as its file is, and only pins cost a
// transaction. On opening, the two are reconciled; a damaged database is put
// aside and made anew from the blocks (see PinRecovered).
//
// Every block is hashed when it comes in and again whenever it is read. One
// that no longer matches its name is removed, counted and from then on absent,
// so that it is fetched anew.
//
// # Files
//
// Files and directories are UnixFS in the profile "unixfs-v1-2025" of IPIP-499:
// CIDv1, sha2-256, chunks of 1 MiB as raw leaves, a balanced tree of at most
// 1,024 links a node. The same bytes always have the same CID, and any IPFS
// client can fetch them. Directories are flat.
//
// # Exchange
//
// An Exchange serves the store's blocks over the standard Bitswap protocols to
// those whom a Policy allows, and fetches. Serving is boxo's stock server;
// fetching is a scheduler of our own over boxo's wire code, because boxo's
// session gives nearly all work to the provider that answers first and so
// leaves most of the line idle when there are several.
//
// One queue of wanted blocks feeds all providers of a fetch. Each provider has
// a window of bytes in flight that follows its measured rate; whoever delivers
// asks for more. What a provider lacks, loses or is late with goes to another.
// See sched for the rules.
//
// A payload that has just been made is at one peer, and all the others want it
// at once. Single blocks and roots of files are therefore asked of providers in
// turn, the likeliest first, and who lacks one is told to forget that it was
// asked, because Bitswap would have it send the block as soon as it has it, to
// a peer that has it by then. The leaves of a file are asked for in random order, so
// that peers soon have different ones for each other.
package block
