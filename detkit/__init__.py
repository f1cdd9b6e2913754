"""Object detection and dense prediction: ViDT, PointWSSIS and MatchMe in one house."""
