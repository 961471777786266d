//! Programs that train, watch and compare networks with Taper: see the files beside `src`.
