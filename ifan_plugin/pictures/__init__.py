"""Pictures for people: contact sheets, disparity in colours, kernels, sheets of a data set."""
