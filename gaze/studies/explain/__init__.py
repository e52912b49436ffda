"""Where does a run look in images of one's own?"""
