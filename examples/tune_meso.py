"""Searches MesoInception4's settings with KerasTuner: tune_meso.py FACES OUTPUT EPOCHS [KEY=VALUE ...]"""

import sys

import keras_tuner

import tfdfd

faces, output, epochs, *settings = sys.argv[1:]
hypermodel = tfdfd.tuning.HyperModel("meso_inception4", data=faces, settings=settings)
objective = keras_tuner.Objective("val_auc", "max")
tuner = keras_tuner.Hyperband(hypermodel, objective, int(epochs), directory=output, project_name="meso", seed=1)
tuner.search(verbose=0)
print(hypermodel.recipe(tuner.get_best_hyperparameters()[0]))
